"""Every figure has the same style, is saved fit for print, and is the same bytes for the same data."""

import json
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from drawn import CHUNKS, DATA_TEXT, SCORES, texts, with_shares
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from kvlib.evictor import POSITION_MODES
from kvlib.lab.figures import answer_plots, fonts, memory_plots, position_plots, recipes, style
from kvlib.lab.report import paths
from kvlib.lab.report.report import Report
from kvlib.policies import POLICIES
from kvlib.policies.scorers import SCORERS


def test_figures_are_not_left_open_in_pyplot():
    before = plt.get_fignums()
    answer_plots.plot_accuracy_over_length(SCORES)
    assert plt.get_fignums() == before


def test_the_style_stays_inside_the_module():
    before = dict(plt.rcParams)
    answer_plots.plot_accuracy_over_length(SCORES)
    assert dict(plt.rcParams) == before


def stored(name: str) -> list[Figure]:
    """The stored figures of that name, small and of full size."""
    folders = [paths.FIGURES, paths.FIGURES / "full_size"]
    return [recipes.draw(name, folder) for folder in folders if (folder / "data" / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_figure_fits_the_page_with_readable_texts_and_nothing_over_the_panels(name):
    for fig in stored(name):
        assert fig.get_size_inches()[0] in (style.ONE_COLUMN, style.TWO_COLUMNS)
        fig.draw_without_rendering()
        shown = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text()]
        assert min(text.get_fontsize() for text in shown) >= 10
        panels = [axis.get_tightbbox() for axis in fig.axes if axis.get_visible()]
        boxes = [text.get_window_extent() for text in (fig._supxlabel, fig._supylabel, fig._suptitle) if text is not None]
        for legend in [legend.get_window_extent() for legend in fig.legends]:
            assert legend.x0 >= 0 and legend.x1 <= fig.bbox.x1, "inside the figure"
            assert not any(legend.overlaps(box) for box in [*panels, *boxes]), "the legend covers something"


def drawn_names(name: str) -> set[str]:
    """The names in the columns of a figure's data that have colours of their own."""
    columns = ("position_mode", "contender", "method", "kind", "run", "configuration")
    found = set()
    for folder in (paths.FIGURES, paths.FIGURES / "full_size"):
        for path in (folder / "data").glob(f"{name}_*.csv"):
            table = recipes.read_table(path)
            found |= {str(value) for column in columns if column in table for value in table[column]}
    return found


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_names_of_a_figure_differ_in_colour_and_in_a_grey_print(name):
    looks = style.looks_of(sorted(drawn_names(name)))
    assert len({look["color"] for look in looks.values()}) == len(looks)
    assert len({(look["marker"], look["markerfacecolor"] == "white") for look in looks.values()}) == len(looks)


def test_a_name_has_one_look_whatever_stands_beside_it_and_no_two_names_share_a_colour():
    names = list(style.LOOKS)
    alone = {name: style.looks_of([name])[name] for name in names}
    assert style.looks_of(reversed(names)) == alone == style.looks_of(names)
    colors = [look["color"] for look in [*style.LOOKS.values(), *style.SPARE[: len(style.SPARE) // 2]]]
    assert len({color.upper() for color in colors}) == len(colors)
    assert set(style.SAME.values()) <= set(names)
    assert style.looks_of(["sink_window"])["sink_window"] == alone["remap"]


def test_every_policy_scorer_and_position_mode_has_a_look():
    assert {*POLICIES, *SCORERS, *POSITION_MODES} - {"importance"} <= {*style.LOOKS, *style.SAME}


def test_names_that_are_not_known_differ_as_long_as_looks_are_left():
    names = [f"a run {i}" for i in range(len(style.SPARE))]
    looks = style.looks_of(names)
    assert len({str(look) for look in looks.values()}) == len(names)
    few = style.looks_of(names[: len(names) // 2])
    assert len({look["color"] for look in few.values()}) == len(few)
    assert set(style.looks_of([*names, "one more"])) == {*names, "one more"}


DRAW = """
import sys
from pathlib import Path
from tests.figures.drawn import SCORES
from kvlib.lab.figures.answer_plots import plot_accuracy_over_length
from kvlib.lab.figures.style import save_figure
from kvlib.lab.report.report import Report
save_figure(plot_accuracy_over_length(SCORES), "04", Path(sys.argv[1]), Report("04", {"SEED": 0}, 0, "cpu").provenance())
"""


def test_the_same_data_give_the_same_bytes_in_another_process(tmp_path):
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / name)], cwd=paths.ROOT, check=True)
    for kind in ("pdf", "png"):
        first, second = [(tmp_path / name / f"04.{kind}").read_bytes() for name in ("a", "b")]
        assert first == second


def test_saved_files_have_provenance_fonts_and_resolution(tmp_path):
    report = Report("04", {"SEED": 3}, 3, "cpu")
    pdf, png = style.save_figure(answer_plots.plot_accuracy_over_length(SCORES), "name", tmp_path, report.provenance())
    assert (pdf, png) == (tmp_path / "name.pdf", tmp_path / "name.png")
    assert b"FontFile2" in pdf.read_bytes() and b"Type3" not in pdf.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    assert b'"seed": 3' in pdf.read_bytes()
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(style.TWO_COLUMNS * 300, abs=1)
        assert json.loads(image.info["Description"])["parameters"] == {"SEED": 3}


def named(*names: str) -> Figure:
    """A figure that has every name as a tick label and in its legend."""
    table = pd.DataFrame(dict(configuration=names, sink_tokens=1, chunk=0, new_tokens=1))
    return memory_plots.plot_sinks(table, table)


def test_characters_that_dejavu_lacks_come_from_a_chinese_font(chinese_font):
    assert DATA_TEXT in texts(named("an English line", DATA_TEXT))


def test_without_a_chinese_font_such_characters_are_missing(monkeypatch):
    """The test before would fail without the fallback."""
    monkeypatch.setitem(style.STYLE, "font.family", ["DejaVu Sans"])
    with pytest.raises(UserWarning, match="Glyph.*missing"):
        texts(named(DATA_TEXT))


def test_an_installed_chinese_font_does_not_change_english_figures(chinese_font, tmp_path, monkeypatch):
    written = []
    for families in (style.STYLE["font.family"], ["DejaVu Sans"]):
        monkeypatch.setitem(style.STYLE, "font.family", families)
        figure = answer_plots.plot_accuracy_over_length(SCORES)
        written.append([path.read_bytes() for path in style.save_figure(figure, "04", tmp_path, {})])
    assert written[0] == written[1]


ODD = [
    "$a_b$", "5$ and 6$", r"\$x\$", "$\\frac$", "100 % {} {0}", "<b>bold</b> & more", "x^2_{i}", r"\alpha\\", "#~&%", "_hidden",
    "שלום", "مرحبا", "😀", "a_b$",
]  # fmt: skip


def odd_figures(text: str) -> dict[str, tuple[Figure, int]]:
    """A figure for every way in which a text of the data gets into one, by how often the text stands in it."""
    shares = pd.DataFrame([dict(position_mode=text, layer=0, region=name, share=0.25) for name in position_plots.REGIONS])
    scores = pd.DataFrame([dict(panel=text, contender=text, question=text, age=a, budget=a, correct=1, n=2) for a in (1, 4)])
    scores = with_shares(scores)
    summary = {f"{q}{end}": [0.5] for q in ("now", "backward") for end in ("", "_low", "_high", "_n")} | {"seconds": [1.0]}
    return {
        "memory": (memory_plots.plot_memory(CHUNKS.assign(run=text), 250), 1),
        "length": (answer_plots.plot_accuracy_over_length(SCORES.assign(question=text, position_mode=text)), 2),
        "strategies": (answer_plots.plot_strategies(pd.DataFrame(summary, index=[text])), 1),
        "retention": (answer_plots.plot_retention(scores), 2),
        "budgets": (answer_plots.plot_budgets(scores), 2),
        "sinks": (named(text), 2),
        "timeline": (memory_plots.plot_timeline(pd.DataFrame(dict(contender=[text], moment=[0], alive=[0]))), 1),
        "attention": (position_plots.plot_attention(shares), 1),
        "drift": (position_plots.plot_drift(pd.DataFrame(dict(turns=[1, 9], method=text, error=[0.1, 0.2]))), 1),
    }


def as_drawn(fig: Figure) -> list[str]:
    """The lines of the visible texts of the figure after matplotlib has looked for formulas in them."""
    fig.draw_without_rendering()
    found = [text._preprocess_math(text.get_text()) for text in fig.findobj(Text) if text.get_visible()]
    return [line.strip() for shown, is_formula in found for line in ("a formula" if is_formula else shown).split("\n")]


@pytest.mark.parametrize(("text", "language"), [*((text, "en") for text in ODD), ("$a_b$", "zh")], ids=ascii)
def test_texts_of_the_data_are_drawn_as_they_are(text, language, monkeypatch, chinese_font):
    monkeypatch.setenv("FIGURE_LANG", language)
    for name, (fig, times) in odd_figures(text).items():
        assert as_drawn(fig).count(text) == times, name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x00a\x1b[2J\x07", r"\x00a\x1b[2J\x07"),
        ("a\u202eb\u2029", r"a\u202eb\u2029"),
        ("x" * 500, "x" * 79 + "…"),
        ("歌" * 500, "歌" * 39 + "…"),
    ],
    ids=["control", "direction", "long", "wide"],
)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_control_characters_and_very_long_texts_are_shown_in_part(text, shown):
    fig = answer_plots.plot_accuracy_over_length(SCORES.assign(question=text))
    assert fig.axes[0].get_title().split("\n")[0] == shown
    fig.draw_without_rendering()


def test_a_users_tex_setting_does_not_reach_the_figures():
    with plt.rc_context({"text.usetex": True}):
        assert "a_b % ^ #" in texts(memory_plots.plot_memory(CHUNKS.assign(run="a_b % ^ #"), 250))


def test_saved_figures_use_any_installed_font_with_the_characters(font_file, tmp_path, monkeypatch):
    """The font is none of those that are known by name."""
    known = [font for font in fontManager.ttflist if font.name.startswith(("DejaVu", "Last"))]
    monkeypatch.setattr(fontManager, "ttflist", known)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(font_file), str(tmp_path / "broken.ttf")])
    (tmp_path / "broken.ttf").write_text("not a font")
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    monkeypatch.setitem(style.STYLE, "font.family", ["DejaVu Sans"])
    fig = named("an English line", DATA_TEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.save_figure(fig, "name", tmp_path, {})
    english, chinese = fig.axes[0].get_yticklabels()
    assert (english.get_fontfamily(), chinese.get_fontfamily()) == (["DejaVu Sans"], ["DejaVu Sans", "Noto Sans CJK SC"])
    assert DATA_TEXT in texts(fig)


def test_characters_without_a_font_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name.startswith("DejaVu")])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.setitem(style.STYLE, "font.family", ["DejaVu Sans"])
    with pytest.warns(UserWarning) as caught:
        style.save_figure(named("歌词 $x$", "\U0001f9ff"), "name", tmp_path, {})
    (warning,) = caught
    assert "no installed font has 歌 (U+6B4C) 词 (U+8BCD) \U0001f9ff (U+1F9FF):" in str(warning.message)
