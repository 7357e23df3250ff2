"""The language of the figures, and a stand-in for an installed Chinese font, so that both are the same on every machine."""

import pytest
from drawn import DATA_TEXT
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from kvlib.lab.figures import fonts, labels, style


@pytest.fixture(autouse=True)
def english(monkeypatch):
    """Figures are English unless a test asks for Chinese, whatever the environment says."""
    monkeypatch.delenv("FIGURE_LANG", raising=False)


@pytest.fixture(scope="session")
def font_file(tmp_path_factory):
    """A font that has a box for every character that the Chinese labels and `DATA_TEXT` have and DejaVu Sans may lack."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(100, 0), (100, 800), (900, 800), (900, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    box = pen.glyph()
    characters = sorted({c for text in [*labels.CHINESE.values(), DATA_TEXT] for c in text if ord(c) > 0x2FF})
    names = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): name for c, name in zip(characters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, box))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": fonts.CHINESE_FONTS[0], "styleName": "Regular", "psName": "StandIn"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path_factory.mktemp("fonts") / "stand_in.ttf"
    builder.save(path)
    return path


@pytest.fixture
def chinese_font(font_file, monkeypatch):
    """The stand-in is installed, and no other Chinese font."""
    known = [font for font in font_manager.fontManager.ttflist if font.name not in fonts.CHINESE_FONTS]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    font_manager.fontManager.addfont(font_file)
    monkeypatch.setitem(style.STYLE, "font.family", fonts.font_families())
    assert style.STYLE["font.family"] == ["DejaVu Sans", fonts.CHINESE_FONTS[0]]
