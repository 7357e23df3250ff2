"""Chinese labels for the figures: what the plots say in English, after they are drawn, in simplified Chinese."""

import re
from collections.abc import Iterator

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "SimHei", "Microsoft YaHei", "PingFang SC",
)  # fmt: skip

# Patterns of whole labels, the first that fits; names of policies, scorers and position modes stay as they are in the code.
LABELS = {
    r"sink \(tokens\)": "汇聚点（词元）",
    r"a constant (.*)": r"固定值 \1",
    r"Sink = the whole first chunk": "汇聚点 = 整个第一块",
    r"Growth per chunk": "每块的增长",
    r"tokens added": "新增词元",
    r"(\d+) frames, (\d+) px": r"\1 帧，\2 像素",
    r"chunk": "块",
    r"no eviction": "不淘汰",
    r"sink \+ window": "汇聚点 + 窗口",
    r"budget (.*)": r"预算 \1",
    r"limit (.*)": r"上限 \1",
    r"cache length \(tokens\)": "缓存长度（词元）",
    r"keys and values \((.*)\)": r"键和值（\1）",
    r"Tokens": "词元",
    r"Bytes": "字节",
    r"found \((\d+)\)": r"已读出（\1）",
    r"asked, not found \((\d+)\)": r"问过但未读出（\1）",
    r"never on screen when asked \((\d+)\)": r"提问时未显示（\1）",
    r"right answer \((\d+)\)": r"回答正确（\1）",
    r"wrong answer \((\d+)\)": r"回答错误（\1）",
    r"(\d+) of (\d+) answers right: (\S+) \(95% Wilson (\S+) to (\S+)\)": (
        r"\2 个回答中 \1 个正确：\3（95% Wilson 区间 \4 至 \5）"
    ),
    r"time \(s\)": "时间（秒）",
    r"median (\S+) ms \(limit (\S+) s\)": r"中位数 \1 毫秒（上限 \2 秒）",
    r"time to first token \(ms\)": "首词元延迟（毫秒）",
    r"share of (\d+) questions": r"\1 个问题中的比例",
    r"first eviction": "第一次淘汰",
    r"eviction \((\d+)\)": r"淘汰（\1）",
    r"out of memory": "内存耗尽",
    r"chunks streamed": "已看过的块数",
    r"exact answers\n\(n = (.*), 95% Wilson\)": "完全正确的比例\n（n = \\1，95% Wilson 区间）",
    r"exact answers \(95% Wilson\)": "完全正确的比例（95% Wilson 区间）",
    r"title": "标题",
    r"current line": "当前行",
    r"now": "此刻",
    r"history": "历史",
    r"backward": "回顾",
    r"(now|backward) \(n = (.*)\)": lambda found: f"{translated(found[1])}（n = {found[2]}）",
    r"importance, by scorer": "importance，按打分方式",
    r"other contenders": "其他方法",
    r"age: chunks since it was on screen": "距显示时的块数",
    r"budget \(tokens\)": "预算（词元）",
    r"time per chunk \(ms\)": "每块时间（毫秒）",
    r"lower resolution": "降低分辨率",
    r"lower frame rate": "降低帧率",
    r"larger budget": "增大预算",
    r"ask while it runs": "边看边问",
    r"overlapping windows": "重叠窗口",
    r"(other )?wording": "换一种问法",
    r"moment \(chunks streamed\)": "时刻（已看过的块数）",
    r"chunk that is alive": "仍在缓存中的块",
    r"sink": "汇聚点",
    r"recent": "近期",
    r"question": "问题",
    r"layer": "层",
    r"share of the question's attention": "问题的注意力比例",
    r"chain": "连续旋转",
    r"original": "从原始键旋转",
    r"one bf16 rounding, 2⁻⁸": "一次 bf16 舍入，2⁻⁸",
    r"evictions": "淘汰次数",
    r"relative error of the keys": "键的相对误差",
    r"(.+) \+ (.+)": lambda found: f"{translated(found[1])} + {translated(found[2])}",
}


def translate(figure: Figure) -> None:
    """Put the labels of `figure` into Chinese; what has no translation stays. Raises RuntimeError without a Chinese font."""
    family = ["DejaVu Sans", chinese_font()]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):
                formatter.seq = [translated(label) for label in formatter.seq]
    for text in texts(figure):
        text.set_text(translated(text.get_text()))
        text.set_fontfamily(family)


def translated(label: str) -> str:
    """A label in Chinese, or as it is where none is known."""
    for pattern, chinese in LABELS.items():
        if found := re.fullmatch(pattern, label):
            return chinese(found) if callable(chinese) else found.expand(chinese)
    return label


def texts(figure: Figure) -> Iterator[Text]:
    """All labels of a figure that hold something."""
    return (text for text in figure.findobj(Text) if text.get_text().strip())


def chinese_font() -> str:
    """The first of `FONTS` that is installed; raises RuntimeError where none is."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    for name in FONTS:
        if name in installed:
            return name
    raise RuntimeError(
        "FIGURE_LANG=zh needs a Chinese font, and none of those known is installed: install one, such as fonts-noto-cjk or "
        f"fonts-wqy-microhei on Debian, and delete {matplotlib.get_cachedir()} (known: {', '.join(FONTS)})"
    )
