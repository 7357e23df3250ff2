"""Figures of answers show the given data, with Wilson intervals."""

import numpy as np
import pandas as pd
import pytest
from drawn import SCORES, legend_texts, line, with_shares
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from statsmodels.stats.proportion import proportion_confint

from kvlib.lab.figures import answer_plots, style
from kvlib.lab.study.scoring import score_answers, score_lines, score_subtitles
from kvlib.lab.video.subtitles import Subtitle


def test_accuracy_panels_points_and_wilson_bars():
    fig = answer_plots.plot_accuracy_over_length(SCORES, first_eviction=12)
    assert [axis.get_title() for axis in fig.axes] == ["title\n(n = 32)", "current line\n(n = 32)"]
    keep, remap = [c for c in fig.axes[0].containers if isinstance(c, ErrorbarContainer)]
    assert (keep.get_label(), remap.get_label()) == ("keep", "remap")
    assert list(keep.lines[0].get_ydata()) == [32 / 32, 18 / 32, 0]
    assert list(keep.lines[0].get_xdata()) == pytest.approx([0, 1, 2], abs=0.2), "a column for each of the three lengths"
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["8", "24", "96"]
    assert (keep.lines[0].get_xdata() < remap.lines[0].get_xdata()).all(), "equal values would hide each other"
    low, high = proportion_confint(18, 32, method="wilson")
    assert keep.lines[2][0].get_segments()[1][:, 1] == pytest.approx([low, high])
    assert keep.lines[0].get_marker() != remap.lines[0].get_marker()
    assert keep.lines[0].get_linestyle() == remap.lines[0].get_linestyle() == "None", "nothing was measured between the points"
    (at, _), _ = line(fig.axes[0], "first eviction, at chunk 12")
    assert at == 0.5, "between the columns of 8 and 24 chunks"
    assert fig.axes[0].get_ylabel() == "exact answers\n(95% Wilson intervals)"
    assert not any("first" in text for text in legend_texts(answer_plots.plot_accuracy_over_length(SCORES)))


def test_timeline_shows_each_line_by_what_became_of_it():
    song = [Subtitle(0, 4, "one"), Subtitle(4, 8, "two"), Subtitle(8, 11, "three")]
    run = pd.DataFrame({"time_s": [1.0, 5.0], "answer": ["one", "tow"]})
    fig = answer_plots.plot_line_timeline(score_lines(song, run), score_answers(song, run))
    (axis,) = fig.axes
    assert {"found (1)", "asked, not found (1)", "never on screen when asked (1)"} <= set(legend_texts(fig))
    assert {"right answer (1)", "wrong answer (1)"} <= set(legend_texts(fig))
    assert axis.get_title() == "1 of 2 answers right: 50% (95% Wilson 9% to 91%)"
    found = [bar for bar in axis.patches if bar.get_facecolor() == to_rgba(style.LIGHT_GREY)]
    assert [(bar.get_x(), bar.get_width()) for bar in found] == [(0, 4)]
    assert [(text.get_text(), text.get_position()[0]) for text in axis.texts] == [("1", 2), ("2", 6), ("3", 9.5)]


def test_a_long_video_is_drawn_in_rows_and_a_line_that_goes_on_has_its_number_in_both():
    song = [Subtitle(0, 30, "one"), Subtitle(30, 50, "two"), Subtitle(79.5, 83, "three")]
    run = pd.DataFrame({"time_s": [1.0, 82.0], "answer": ["one", "three"]})
    fig = answer_plots.plot_line_timeline(score_lines(song, run), score_answers(song, run))
    assert [axis.get_xlim() for axis in fig.axes] == [(0, 40), (40, 80), (80, 120)]
    drawn = [[(text.get_text(), text.get_position()[0]) for text in axis.texts] for axis in fig.axes]
    assert drawn == [[("1", 15), ("2", 35)], [("2", 45)], [("3", 81.5)]], "half a second is too short for a number"
    hours = [Subtitle(3600, 7200, "one")]
    assert len(answer_plots.plot_line_timeline(score_lines(hours, run), score_answers(hours, run)).axes) == 8


def test_timeline_shows_when_each_line_was_read():
    song = [Subtitle(0, 4, "one"), Subtitle(4, 8, "two"), Subtitle(8, 11, "three")]
    read = [Subtitle(0.5, 3, "one"), Subtitle(3, 5, "noise $x$")]
    run = pd.DataFrame({"time_s": [1.0, 5.0], "answer": ["one", "noise $x$"]})
    fig = answer_plots.plot_line_timeline(score_subtitles(song, read, run["time_s"]), score_answers(song, run))
    expected = {"found (1)", "asked, not found (1)", "never on screen when asked (1)", "read (1)", "read, in no subtitle (1)"}
    assert expected <= set(legend_texts(fig))
    (axis,) = fig.axes
    black = [bar for bar in axis.patches if bar.get_facecolor() == (0, 0, 0, 1)]
    assert [(bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in black] == [
        (0.5, 2.5, pytest.approx(0.275)),
    ]
    (other,) = [bar for bar in axis.patches if bar.get_hatch() == "xxxx"]
    assert (other.get_x(), other.get_width()) == (3, 2)


def test_ttft_is_in_milliseconds_from_zero_with_the_interval_of_the_median():
    fig = answer_plots.plot_ttft(pd.DataFrame({"ttft": np.arange(1, 101) / 1e3}), limit_s=10)
    assert legend_texts(fig) == ["95% interval 40 to 61 ms", "median 50.5 ms (limit 10 s)"]
    (axis,) = fig.axes
    assert axis.get_xlim()[0] == 0 and "100 questions" in axis.get_ylabel()
    (band,) = [patch for patch in axis.patches if patch.get_facecolor() == to_rgba(style.LIGHT_GREY)]
    assert (band.get_x(), band.get_width()) == pytest.approx((40, 21))


def test_a_few_questions_have_no_interval():
    fig = answer_plots.plot_ttft(pd.DataFrame({"ttft": [0.010, 0.020, 0.030]}), limit_s=10)
    assert legend_texts(fig) == ["median 20 ms (limit 10 s)"]


def test_retention_has_points_and_bars_for_every_policy():
    cells = [("uniform", 1, 9), ("uniform", 8, 6), ("sink_window", 1, 10), ("sink_window", 8, 0)]
    scores = pd.DataFrame([dict(panel="p", contender=name, age=age, correct=correct, n=10) for name, age, correct in cells])
    scores = with_shares(scores)
    fig = answer_plots.plot_retention(scores)
    uniform, window = [c for c in fig.axes[0].containers if isinstance(c, ErrorbarContainer)]
    assert (uniform.get_label(), window.get_label()) == ("uniform", "sink_window")
    assert list(uniform.lines[0].get_ydata()) == [0.9, 0.6]
    assert list(window.lines[0].get_ydata()) == [1.0, 0.0]
    assert list(window.lines[0].get_xdata()) == pytest.approx([0, 1], abs=0.2)
    assert {found.lines[0].get_linestyle() for found in (uniform, window)} == {"None"}
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["1", "8"]
    assert fig.axes[0].get_title() == "p\n(n = 10)" and "95% Wilson intervals" in fig.axes[0].get_ylabel()


def test_budgets_have_a_panel_for_every_question():
    cells = [("now", "a", 250, 3), ("now", "a", 500, 4), ("title", "a", 250, 0), ("title", "a", 500, 2)]
    scores = pd.DataFrame([(*cell, 4) for cell in cells], columns=["question", "contender", "budget", "correct", "n"])
    scores = with_shares(scores)
    fig = answer_plots.plot_budgets(scores)
    assert [axis.get_title() for axis in fig.axes] == ["now\n(n = 4)", "title\n(n = 4)"]
    drawn = [axis.containers[0].lines[0] for axis in fig.axes]
    assert [list(found.get_ydata()) for found in drawn] == [[0.75, 1], [0, 0.5]]
    assert list(drawn[0].get_xdata()) == [0, 1]
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["250", "500"]
    assert legend_texts(fig) == ["a"]


def test_strategies_stand_in_order_with_their_price():
    summary = pd.DataFrame(
        {"now": [1.0, 0.9], "now_low": [0.9, 0.7], "now_high": [1.0, 0.95], "now_n": 10, "backward": [0.1, 0.5],
         "backward_low": [0, 0.3], "backward_high": [0.3, 0.7], "backward_n": 40, "seconds": [0.05, 0.08]},
        index=["keep", "remap"],
    )  # fmt: skip
    fig = answer_plots.plot_strategies(summary)
    answers, price = fig.axes
    assert [text.get_text() for text in answers.get_yticklabels()] == ["keep", "remap"]
    assert list(answers.get_yticks()) == [1, 0], "the first at the top"
    assert [list(c.lines[0].get_xdata()) for c in answers.containers if isinstance(c, ErrorbarContainer)] == [
        [1, 0.9],
        [0.1, 0.5],
    ]
    assert [bar.get_width() for bar in price.patches] == pytest.approx([50, 80])
    assert legend_texts(fig) == ["now (n = 10)", "backward (n = 40)"]


def test_without_intervals_a_figure_has_no_bars_and_its_axis_names_none():
    none = dict(low=np.nan, high=np.nan)
    scores = SCORES.assign(**none)
    budgets = scores.rename(columns={"position_mode": "contender", "chunks": "budget"})
    retention = scores.rename(columns={"question": "panel", "position_mode": "contender", "chunks": "age"})
    shares = {f"{question}{end}": value for question in ("now", "backward") for end, value in none_of(0.5).items()}
    strategies = pd.DataFrame(shares | {"seconds": 0.1}, index=["keep", "remap"])
    for fig, name in (
        (answer_plots.plot_accuracy_over_length(scores), "get_ylabel"),
        (answer_plots.plot_budgets(budgets), "get_ylabel"),
        (answer_plots.plot_retention(retention), "get_ylabel"),
        (answer_plots.plot_strategies(strategies), "get_xlabel"),
    ):
        assert getattr(fig.axes[0], name)() == "exact answers"
        drawn = [found for axis in fig.axes for found in axis.containers if isinstance(found, ErrorbarContainer)]
        assert drawn and not any(found.has_xerr or found.has_yerr for found in drawn)


def none_of(share: float) -> dict[str, float]:
    """The columns of a share without an interval, by the end of their names."""
    return {"": share, "_low": np.nan, "_high": np.nan, "_n": 2}
