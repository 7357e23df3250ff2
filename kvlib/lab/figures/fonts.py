"""Fonts for the characters of a figure's texts, which come from videos and may be of any script."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontPath, fontManager
from matplotlib.text import Text

CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "SimHei", "Microsoft YaHei", "PingFang SC",
)  # fmt: skip
NOT_FOR_TEXT = ("Last Resort", "Color", "Mono")  # boxes with numbers, pictures that matplotlib cannot draw, wide letters


def font_families() -> list[str]:
    """DejaVu Sans, then the first of `CHINESE_FONTS` that is installed, if any, for the characters that DejaVu Sans lacks."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in CHINESE_FONTS if name in installed][:1]]


def chinese_font() -> str:
    """The first of `CHINESE_FONTS` that is installed. Raises RuntimeError when none is."""
    if len(font_families()) == 1:
        find_new_fonts()
    for name in font_families()[1:]:
        return name
    raise RuntimeError(
        "FIGURE_LANG=zh needs a Chinese font, and none of those known is installed: install one, such as fonts-noto-cjk or "
        f"fonts-wqy-microhei on Debian (known: {', '.join(CHINESE_FONTS)})"
    )


def find_new_fonts() -> None:
    """Tell matplotlib of fonts that were installed after it made its list of fonts, which it keeps for ever."""
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        with suppress(Exception):  # whatever a broken font raises: it is not used
            fontManager.addfont(path)


def use_installed_fonts(fig: Figure, families: list[str]) -> None:
    """Give the texts of a figure fonts that have their characters, and warn of characters that no installed font has.

    families: the fonts of all texts. Others are added, behind them, only to texts with characters that these lack.
    """
    texts = [text for text in _texts(fig) if text.get_text()]
    missing = _without_font({c for text in texts for c in text.get_text() if not c.isspace()}, families)
    if not missing:
        return
    find_new_fonts()
    more, left = [], missing
    for font in _candidates():
        if left and left & _characters(font.fname, font.index) and font.name not in families:
            more.append(font.name)
            left = _without_font(left, [font.name])
    for text in texts:
        if missing & set(text.get_text()):
            text.set_fontfamily([*families, *more])
    if left:
        shown = " ".join(f"{c} (U+{ord(c):04X})" for c in sorted(left))
        warnings.warn(
            f"no installed font has {shown}: the figure shows boxes there. Install a font, such as one of Debian's "
            "fonts-noto packages, and draw the figure again",
            stacklevel=2,
        )


def _texts(fig: Figure) -> Iterable[Text]:
    for axis in fig.axes:
        for one in (axis.xaxis, axis.yaxis):
            one.get_ticklabels(which="both")  # matplotlib writes them only now
    return fig.findobj(Text)


def _candidates() -> Iterator[FontEntry]:
    """The upright fonts of normal weight by name, Chinese ones first: Japanese fonts draw some Chinese characters otherwise."""
    plain = (font for font in fontManager.ttflist if font.style == "normal" and font.weight in (400, "normal", "regular"))
    usable = [font for font in plain if not any(word in font.name for word in NOT_FOR_TEXT)]
    order = {name: i for i, name in enumerate(CHINESE_FONTS)}
    yield from sorted(usable, key=lambda font: (order.get(font.name, len(order)), "Sans" not in font.name, font.name))


def _without_font(characters: set[str], families: Iterable[str]) -> set[str]:
    """Those of the `characters` that matplotlib finds in none of the `families`."""
    left = set(characters)
    for family in families:
        found = fontManager.findfont(family, fallback_to_default=True)
        path, index = (found.path, found.face_index) if isinstance(found, FontPath) else (found, 0)
        left -= _characters(path, index)
    return left


@lru_cache(maxsize=512)
def _characters(path: str, index: int) -> frozenset[str]:
    """The characters that a font has; none for a file that cannot be read."""
    try:
        with matplotlib.rc_context({"font.enable_last_resort": False}):
            return frozenset(map(chr, font_manager.get_font(FontPath(path, index)).get_charmap()))
    except Exception:  # whatever a broken font raises
        return frozenset()
