"""The texts of the figures, in English or, with `FIGURE_LANG=zh` in the environment, in simplified Chinese.

Every axis label, title, legend entry and tick text goes through `label` when it is drawn, or through `literal` when it is
text from the data that has no translation.
"""

import os
import re
import unicodedata
from itertools import accumulate

from kvlib.lab.report.text import printable

LINE_WIDTH = 80  # of a drawn line, in narrow characters; no label of ours is longer

# English to Chinese. `{}` stands for any text, which is translated too. A label takes the entry that equals it, or else the
# first one that fits it with texts for `{}`.
# Names of policies, scorers and position modes have no entry: they are drawn as they are written in the code.
CHINESE = {
    "sink (tokens)": "汇聚点（词元）",
    "a constant {}": "固定值 {}",
    "Sink = the whole first chunk": "汇聚点 = 整个第一块",
    "Growth per chunk": "每块的增长",
    "tokens added": "新增词元",
    "{} frames, {} px": "{} 帧，{} 像素",
    "grid {}: all {}": "时间网格 {}：全部 {}",
    "grid {}: {} of {}": "时间网格 {}：{}/{}",
    "{} frames a chunk": "每块 {} 帧",
    "threshold (share of full scale)": "阈值（占满量程的比例）",
    "tokens a second of video": "每秒视频的词元数",
    "One chunk at threshold {}; what is dropped is faded to white": "阈值为 {} 时的一个块；被丢弃的部分淡化显示",
    "chunk": "块",
    "no eviction": "不淘汰",
    "sink + window": "汇聚点 + 窗口",
    "{} held, budget {}": "已占用 {}，预算 {}",
    "budget {}": "预算 {}",
    "limit {}": "上限 {}",
    "cache length (tokens)": "缓存长度（词元）",
    "keys and values ({})": "键和值（{}）",
    "Tokens": "词元",
    "Bytes": "字节",
    "tokens stored": "已存词元",
    "milliseconds": "毫秒",
    "Time per chunk": "每块用时",
    "found ({})": "已读出（{}）",
    "asked, not found ({})": "问过但未读出（{}）",
    "never on screen when asked ({})": "提问时未显示（{}）",
    "read ({})": "读出的文字（{}）",
    "read, in no subtitle ({})": "读出但字幕中没有（{}）",
    "right answer ({})": "回答正确（{}）",
    "wrong answer ({})": "回答错误（{}）",
    "{} of {} answers right: {} (95% Wilson {} to {})": "{1} 个回答中 {0} 个正确：{2}（95% 威尔逊区间 {3} 至 {4}）",
    "time (s)": "时间（秒）",
    "95% interval {} to {} ms": "95% 区间 {} 至 {} 毫秒",
    "median {} ms (limit {} s)": "中位数 {} 毫秒（上限 {} 秒）",
    "time to first token (ms)": "首字延迟（毫秒）",
    "share of {} questions": "{} 个问题中的比例",
    "first eviction, at chunk {}": "首次淘汰：第 {} 块",
    "eviction ({})": "淘汰（{}）",
    "out of memory": "内存耗尽",
    "chunks streamed": "已处理的块数",
    "exact answers": "完全正确的比例",
    "exact answers\n(95% intervals)": "完全正确的比例\n（95% 区间）",
    "exact answers\n(95% Wilson intervals)": "完全正确的比例\n（95% 威尔逊区间）",
    "exact answers\n(n = {} streams)": "完全正确的比例\n（n = {} 个流）",
    "exact answers (95% intervals)": "完全正确的比例（95% 区间）",
    "title": "标题",
    "current line": "当前行",
    "now": "当前",
    "history": "历史",
    "backward": "回顾",
    "importance, by scorer": "importance，按打分器",
    "other contenders": "其他方法",
    "other methods": "其他方法",
    "age (chunks since shown)": "显示之后经过的块数",
    "budget (tokens)": "预算（词元）",
    "time per chunk (ms)": "每块用时（毫秒）",
    "lower resolution": "降低分辨率",
    "lower frame rate": "降低帧率",
    "larger budget": "增大预算",
    "ask while it runs": "边看边问",
    "overlapping windows": "重叠窗口",
    "other wording": "换一种问法",
    "{} + {}": "{} + {}",  # before "recall {}": the first pattern that fits is taken
    "moment (chunks streamed)": "时刻（已处理的块数）",
    "chunk that is alive": "仍在缓存中的块",
    "sink": "汇聚点",
    "recent": "近期",
    "question": "问题",
    "layer": "层",
    "share of the question's attention\n(mean of {} heads)": "问题的注意力比例\n（{} 个头的平均）",
    "chain": "连续旋转",
    "original": "从原始键旋转",
    "one bf16 rounding, 2⁻⁸": "一次 bf16 舍入，2⁻⁸",
    "evictions": "淘汰次数",
    "relative error of the keys": "键的相对误差",
    "mean over {}": "对 {} 取平均",
    "with recall": "召回",
    "without recall": "不召回",
    "{}, {} chunks": "{}，{} 块的流",
    "recall": "召回",
    "recall auto": "召回（自动）",
    "recall {}": "召回 {}",
    "true chunk": "正确的块",
    "random chunk": "随机的块",
    "attention / even share": "注意力与均等份额之比",
    "share of the questions": "问题的比例",
    "questions": "问题数",
    "ranked first": "排名第一",
    "ranked first, {}": "排名第一，{}",
    "the right card": "正确的卡片",
    "the chunk asked for": "所问的块",
    "another card": "另一张卡片",
    "text": "文字",
    "a blank screen": "空白画面",
    "never shown": "从未显示",
    "least for auto": "自动召回的下限",
    "window, {}": "窗口，{}",
    "real-time": "实时",
    "forward": "前瞻",
    "right answers": "正确回答的比例",
    "right answers (95% Wilson)": "正确回答的比例（95% 威尔逊区间）",
    "prepare": "准备",
    "vision": "视觉塔",
    "evict": "淘汰",
    "language": "语言模型",
    "between the stages": "各阶段之间",
    "plain": "普通",
    "plain: a transformers loop": "普通：transformers 循环",
    "re-rotated": "重新旋转",
    "re-rotated: kvlib, all keys rotated at each use": "重新旋转：kvlib，每次使用都旋转全部键",
    "kvlib, 8-bit": "kvlib，8 位",
    "kvlib, 8-bit: keys and values in 8 bits": "kvlib，8 位：以 8 位存储键和值",
    "{} tokens:": "{} 万词元：",
    "One chunk, by stage": "一个块各阶段的用时",
    "One chunk, by stage; only one cache size was measured": "一个块各阶段的用时；只测量了一种缓存长度",
    "seconds per chunk (median of {}; {})": "每块秒数（{} 次的中位数；{}）",
    "lines: least and largest": "细线：最小值至最大值",
    "spread not kept": "未保存各次结果的范围",
    "A decoded token": "解码一个词元",
    "The first token": "首个词元",
    "tokens in the cache": "缓存中的词元数（万）",
    "Fits in {} GiB": "{} GiB 内可容纳",
    "thousand tokens": "词元数（万）",
    "{} (n = {})": "{}（n = {}）",
    "{}\n(n = {})": "{}\n（n = {}）",
    " (n = {})": "（n = {}）",
    ", ": "，",
    "{} to {}": "{} 至 {}",
}


def _pattern(english: str) -> re.Pattern:
    return re.compile("(.+?)".join(map(re.escape, english.split("{}"))), re.DOTALL)


PATTERNS = {_pattern(english): chinese for english, chinese in CHINESE.items() if "{}" in english}


def language() -> str:
    """The language of the figures, "en" or "zh", from `FIGURE_LANG`. Raises ValueError for another one."""
    chosen = os.environ.get("FIGURE_LANG") or "en"
    if chosen not in ("en", "zh"):
        raise ValueError(f"FIGURE_LANG={chosen!r} is not a language of the figures: set it to en or zh")
    return chosen


def file_name(name: str) -> str:
    """What a figure's files are called in the language of the figures: `<name>_zh` in Chinese."""
    return f"{name}_zh" if language() == "zh" else name


def label(text: str) -> str:
    """`text`, given in English, as matplotlib should draw it in the language of the figures.

    A text without an entry in `CHINESE` stays as it is.
    """
    return literal(_in_chinese(text) if language() == "zh" else text)


def literal(text: str) -> str:
    r"""`text` so that matplotlib draws exactly the given characters: it reads no mathtext and leaves no legend entry out.

    Control characters are drawn as escapes such as `\x00`, and lines wider than `LINE_WIDTH` are cut.
    """
    lines = printable(str(text), keep="\n").split("\n")
    shown = "\n".join(_cut(line) for line in lines).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # a legend leaves out what begins with an underscore


def _cut(line: str) -> str:
    """A line of at most `LINE_WIDTH`, with an ellipsis where it was cut; East Asian characters count as two."""
    widths = list(accumulate(1 + (unicodedata.east_asian_width(c) in "WF") for c in line))
    if not widths or widths[-1] <= LINE_WIDTH:
        return line
    return line[: sum(width < LINE_WIDTH for width in widths)] + "…"


def _in_chinese(text: str) -> str:
    if text in CHINESE:
        return CHINESE[text]
    for pattern, chinese in PATTERNS.items():
        if found := pattern.fullmatch(text):
            return chinese.format(*map(_in_chinese, found.groups()))
    return text
