"""Figures show the data they were given, in a form fit for print, and do not change unless the data do."""

import json
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from kvlib.lab.figures import plots
from kvlib.lab.report import paths
from kvlib.lab.report.report import Report
from kvlib.lab.study.scoring import Subtitle, score_answers, score_lines

SCORES = pd.DataFrame(
    [
        {"question": question, "position_mode": mode, "chunks": chunks, "correct": correct, "n": 32}
        for question, mode, counts in [
            ("title", "keep", (32, 18, 0)),
            ("title", "remap", (32, 31, 32)),
            ("current line", "keep", (32, 31, 29)),
            ("current line", "remap", (32, 32, 30)),
        ]
        for chunks, correct in zip((8, 24, 96), counts, strict=True)
    ]
)
CHUNKS = pd.DataFrame(
    [
        {"run": run, "chunk": c, "cache_tokens": tokens, "cache_bytes": tokens * 6144, "event": event}
        for run, rows in {
            "no eviction": [(100, ""), (200, ""), (300, "out of memory")],
            "sink + window": [(100, ""), (200, ""), (200, "eviction"), (200, "eviction")],
        }.items()
        for c, (tokens, event) in enumerate(rows)
    ]
)


def labels(fig) -> list[str]:
    legends = [*fig.legends, *(axis.get_legend() for axis in fig.axes if axis.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def line(axis, label):
    (found,) = [item for item in axis.lines if item.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def test_accuracy_panels_lines_and_wilson_bars():
    fig = plots.plot_accuracy_over_length(SCORES, first_eviction=12)
    assert [axis.get_title() for axis in fig.axes] == ["title", "current line"]
    keep, remap = [c for c in fig.axes[0].containers if isinstance(c, ErrorbarContainer)]
    assert (keep.get_label(), remap.get_label()) == ("keep", "remap")
    assert list(keep.lines[0].get_ydata()) == [32 / 32, 18 / 32, 0]
    assert list(keep.lines[0].get_xdata()) == pytest.approx([8, 24, 96], abs=1)
    assert (keep.lines[0].get_xdata() < remap.lines[0].get_xdata()).all(), "equal values would hide each other"
    low, high = proportion_confint(18, 32, method="wilson")
    assert keep.lines[2][0].get_segments()[1][:, 1] == pytest.approx([low, high])
    assert keep.lines[0].get_marker() != remap.lines[0].get_marker()
    assert keep.lines[0].get_linestyle() != remap.lines[0].get_linestyle()
    assert "first eviction" in labels(fig)
    assert fig.axes[0].get_ylabel() == "exact answers\n(n = 32, 95% Wilson)"
    assert "first eviction" not in labels(plots.plot_accuracy_over_length(SCORES))


def test_memory_marks_every_eviction_and_the_end():
    fig = plots.plot_memory(CHUNKS, budget_tokens=250, limit_bytes=300 * 6144)
    tokens, size = fig.axes
    assert line(tokens, "no eviction") == ([0, 1, 2], [100, 200, 300])
    assert line(tokens, "eviction (2)")[0] == [2, 3]
    assert line(size, "sink + window")[1] == pytest.approx([n * 6144 / 2**20 for n in (100, 200, 200, 200)])
    assert size.get_ylabel() == "keys and values (MiB)"
    assert tokens.collections[0].get_offsets().tolist() == [[2, 300]]
    assert {"budget 250", "out of memory", "eviction (2)", "limit 1.76 MiB"} <= set(labels(fig))
    assert len(labels(fig)) == len(set(labels(fig)))


def test_large_caches_are_shown_in_gib():
    large = CHUNKS.assign(cache_bytes=CHUNKS["cache_bytes"] * 10_000)
    assert plots.plot_memory(large, 250).axes[1].get_ylabel() == "keys and values (GiB)"


def test_sinks_and_increments():
    configurations = ["2 frames", "4 frames"]
    increments = pd.DataFrame(
        [{"configuration": c, "chunk": i, "new_tokens": 70 * (k + 1)} for k, c in enumerate(configurations) for i in (0, 1)]
    )
    sinks = pd.DataFrame({"configuration": configurations, "sink_tokens": [190, 330]})
    fig = plots.plot_sinks(increments, sinks)
    assert [bar.get_width() for bar in fig.axes[0].patches] == [190, 330]
    assert line(fig.axes[1], "4 frames") == ([0, 1], [140, 140])
    assert "a constant 128" in labels(fig)


def test_timeline_shows_each_line_by_what_became_of_it():
    song = [Subtitle(0, 4, "one"), Subtitle(4, 8, "two"), Subtitle(8, 11, "three")]
    run = pd.DataFrame({"time_s": [1.0, 5.0], "answer": ["one", "tow"]})
    fig = plots.plot_line_timeline(score_lines(song, run), score_answers(song, run))
    (axis,) = fig.axes
    assert {"found (1)", "asked, not found (1)", "never on screen when asked (1)"} <= set(labels(fig))
    assert {"right answer (1)", "wrong answer (1)"} <= set(labels(fig))
    assert axis.get_title() == "1 of 2 answers right: 50% (95% Wilson 9% to 91%)"
    found = [bar for bar in axis.patches if bar.get_facecolor() == plt.matplotlib.colors.to_rgba(plots.BLUE)]
    assert [(bar.get_x(), bar.get_width()) for bar in found] == [(0, 4)]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["one", "two", "three"]


def test_ttft_is_in_milliseconds():
    fig = plots.plot_ttft(pd.DataFrame({"ttft": [0.010, 0.020, 0.030]}), limit_s=10)
    assert labels(fig) == ["median 20 ms (limit 10 s)"]


def test_figures_are_not_left_open_in_pyplot():
    before = plt.get_fignums()
    plots.plot_accuracy_over_length(SCORES)
    assert plt.get_fignums() == before


def test_the_style_stays_inside_the_module():
    before = dict(plt.rcParams)
    plots.plot_accuracy_over_length(SCORES)
    assert dict(plt.rcParams) == before


DRAW = """
import sys
from pathlib import Path
from tests.test_plots import SCORES
from kvlib.lab.figures.plots import plot_accuracy_over_length, save_figure
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
    pdf, png = plots.save_figure(plots.plot_accuracy_over_length(SCORES), "name", tmp_path, report.provenance())
    assert (pdf, png) == (tmp_path / "name.pdf", tmp_path / "name.png")
    assert b"FontFile2" in pdf.read_bytes() and b"Type3" not in pdf.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    assert b'"seed": 3' in pdf.read_bytes()
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(plots.TWO_COLUMNS * 300, abs=1)
        assert json.loads(image.info["Description"])["parameters"] == {"SEED": 3}


def test_retention_has_a_line_and_bars_for_every_policy():
    cells = [("uniform", 1, 9), ("uniform", 8, 6), ("sink_window", 1, 10), ("sink_window", 8, 0)]
    scores = pd.DataFrame([dict(panel="p", contender=name, age=age, correct=correct, n=10) for name, age, correct in cells])
    fig = plots.plot_retention(scores)
    uniform, window = [c for c in fig.axes[0].containers if isinstance(c, ErrorbarContainer)]
    assert (uniform.get_label(), window.get_label()) == ("uniform", "sink_window")
    assert list(uniform.lines[0].get_ydata()) == [0.9, 0.6]
    assert list(window.lines[0].get_ydata()) == [1.0, 0.0]
    assert list(window.lines[0].get_xdata()) == pytest.approx([1, 8], rel=0.05)
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["1", "8"]
    assert "n = 10, 95% Wilson" in fig.axes[0].get_ylabel()


def test_the_timeline_shows_the_living_chunks():
    timeline = pd.DataFrame([("a", 0, 0), ("a", 1, 0), ("a", 1, 1), ("b", 0, 0)], columns=["contender", "moment", "alive"])
    fig = plots.plot_timeline(timeline)
    assert [axis.get_title() for axis in fig.axes] == ["a", "b"]
    assert fig.axes[0].collections[0].get_offsets().tolist() == [[0, 0], [1, 0], [1, 1]]


def test_attention_bars_add_up_to_one():
    regions = {"sink": 0.5, "history": 0.2, "recent": 0.2, "question": 0.1}
    rows = [
        dict(position_mode=mode, layer=layer, head=head, region=region, share=share)
        for mode in ("keep", "remap")
        for layer in range(2)
        for head in range(3)
        for region, share in regions.items()
    ]
    fig = plots.plot_attention(pd.DataFrame(rows))
    assert [axis.get_title() for axis in fig.axes] == ["keep", "remap"]
    tops = [bar.get_y() + bar.get_height() for bar in fig.axes[1].containers[-1]]
    assert tops == pytest.approx([1, 1])
    assert labels(fig) == list(regions)


def test_drift_shows_both_ways():
    drift = pd.DataFrame(
        [(10, "chain", 0.01), (100, "chain", 0.1), (10, "original", 0.002)], columns=["turns", "method", "error"]
    )
    fig = plots.plot_drift(drift)
    assert line(fig.axes[0], "chain") == ([10, 100], [0.01, 0.1])
    assert line(fig.axes[0], "original") == ([10], [0.002])


def test_budgets_have_a_panel_for_every_question():
    cells = [("now", "a", 250, 3), ("now", "a", 500, 4), ("title", "a", 250, 0), ("title", "a", 500, 2)]
    scores = pd.DataFrame([(*cell, 4) for cell in cells], columns=["question", "contender", "budget", "correct", "n"])
    fig = plots.plot_budgets(scores)
    assert [axis.get_title() for axis in fig.axes] == ["now", "title"]
    drawn = [axis.containers[0].lines[0] for axis in fig.axes]
    assert [list(found.get_ydata()) for found in drawn] == [[0.75, 1], [0, 0.5]]
    assert list(drawn[0].get_xdata()) == pytest.approx([250, 500])
    assert labels(fig) == ["a"]


def test_strategies_stand_in_order_with_their_price():
    summary = pd.DataFrame(
        {"now": [1.0, 0.9], "now_low": [0.9, 0.7], "now_high": [1.0, 0.95], "now_n": 10, "backward": [0.1, 0.5],
         "backward_low": [0, 0.3], "backward_high": [0.3, 0.7], "backward_n": 40, "seconds": [0.05, 0.08]},
        index=["keep", "remap"],
    )  # fmt: skip
    fig = plots.plot_strategies(summary)
    answers, price = fig.axes
    assert [text.get_text() for text in answers.get_yticklabels()] == ["keep", "remap"]
    assert list(answers.get_yticks()) == [1, 0], "the first at the top"
    assert [list(c.lines[0].get_xdata()) for c in answers.containers if isinstance(c, ErrorbarContainer)] == [
        [1, 0.9],
        [0.1, 0.5],
    ]
    assert [bar.get_width() for bar in price.patches] == pytest.approx([50, 80])
    assert labels(fig) == ["now (n = 10)", "backward (n = 40)"]
