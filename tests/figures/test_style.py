"""Every figure has the same style, is saved fit for print, and is the same bytes for the same data."""

import json
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from drawn import CHUNKS, DATA_TEXT, SCORES, texts
from PIL import Image

from kvlib.lab.figures import answer_plots, memory_plots, style
from kvlib.lab.report import paths
from kvlib.lab.report.report import Report


def test_figures_are_not_left_open_in_pyplot():
    before = plt.get_fignums()
    answer_plots.plot_accuracy_over_length(SCORES)
    assert plt.get_fignums() == before


def test_the_style_stays_inside_the_module():
    before = dict(plt.rcParams)
    answer_plots.plot_accuracy_over_length(SCORES)
    assert dict(plt.rcParams) == before


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


def lines(*subtitles: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    times = [float(i) for i in range(len(subtitles))]
    table = pd.DataFrame(dict(start_s=times, end_s=[t + 1 for t in times], text=subtitles, asked=True, found=True))
    return table, pd.DataFrame(dict(time_s=times, exact=True))


def test_characters_that_dejavu_lacks_come_from_a_chinese_font(chinese_font):
    assert DATA_TEXT in texts(answer_plots.plot_line_timeline(*lines("an English line", DATA_TEXT)))


def test_without_a_chinese_font_such_characters_are_missing(monkeypatch):
    """The test before would fail without the fallback."""
    monkeypatch.setitem(style.STYLE, "font.family", ["DejaVu Sans"])
    with pytest.raises(UserWarning, match="Glyph.*missing"):
        texts(answer_plots.plot_line_timeline(*lines(DATA_TEXT)))


def test_an_installed_chinese_font_does_not_change_english_figures(chinese_font, tmp_path, monkeypatch):
    written = []
    for families in (style.STYLE["font.family"], ["DejaVu Sans"]):
        monkeypatch.setitem(style.STYLE, "font.family", families)
        figure = answer_plots.plot_accuracy_over_length(SCORES)
        written.append([path.read_bytes() for path in style.save_figure(figure, "04", tmp_path, {})])
    assert written[0] == written[1]


@pytest.mark.parametrize("text", ["$a_b$", "5$ and 6$", r"\$x\$", "$\\frac$", "100 % {} {0}", "<b>bold</b> & more"])
def test_texts_of_the_data_are_drawn_as_they_are(text):
    assert text in texts(answer_plots.plot_line_timeline(*lines(text)))
    assert text in texts(memory_plots.plot_memory(CHUNKS.assign(run=text), 250))
    scores = SCORES.assign(question=text, position_mode=text)
    assert texts(answer_plots.plot_accuracy_over_length(scores)).count(text) == 2, "the title and the legend"
