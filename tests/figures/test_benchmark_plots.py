"""Figures of public benchmarks show the given scores, with the given intervals."""

import math

import pandas as pd
import pytest
from drawn import legend_texts
from matplotlib.container import ErrorbarContainer

from kvlib.lab.figures.benchmark_plots import plot_modes, plot_tasks


def bars(axis) -> dict[str, ErrorbarContainer]:
    return {found.get_label(): found for found in axis.containers if isinstance(found, ErrorbarContainer)}


def test_modes_are_a_row_per_method_and_values_stand_where_they_are():
    rows = [
        ("window, keep", "backward", 0.2, 0.1, 0.4, 7),
        ("window, keep", "real-time", 1.0, 0.8, 1.0, 9),
        ("window, keep", "total without forward", 0.55, 0.4, 0.7, 16),
        ("recall 2", "backward", 0.7, 0.6, 0.8, 7),
        ("recall 2", "real-time", 1.0, 0.85, 1.0, 9),
    ]
    fig = plot_modes(pd.DataFrame(rows, columns=["method", "mode", "score", "low", "high", "n"]))
    now, backward = fig.axes
    assert [axis.get_title() for axis in fig.axes] == ["real-time (n = 9)", "backward (n = 7)"]
    assert [text.get_text() for text in now.get_yticklabels()] == ["window, keep", "recall 2"]
    points = [[found.lines[0].get_xydata()[0].tolist() for found in axis.containers] for axis in fig.axes]
    assert points == [[[1.0, 1], [1.0, 0]], [[0.2, 1], [0.7, 0]]], "equal values in rows of their own, not moved aside"
    assert backward.containers[1].lines[2][0].get_segments()[0][:, 0] == pytest.approx([0.6, 0.8])


def test_tasks_are_a_row_each_and_one_without_an_answer_is_left_out():
    rows = [
        ("a", "backward", "EPM", 0.5, 0.3, 0.7, 20),
        ("a", "real-time", "OCR", 1.0, 0.9, 1.0000001, 30),
        ("a", "forward", "REC", float("nan"), float("nan"), float("nan"), 0),
        ("b", "backward", "EPM", 0.25, 0.1, 0.5, 20),
        ("b", "real-time", "OCR", 0.75, 0.5, 0.9, 29),
    ]
    fig = plot_tasks(pd.DataFrame(rows, columns=["method", "mode", "task", "share", "low", "high", "n"]))
    (axis,) = fig.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["backward, EPM (n = 20)", "real-time, OCR (n = 30)"]
    assert legend_texts(fig) == ["a", "b"]
    drawn = bars(axis)
    assert list(drawn["a"].lines[0].get_xdata()) == [0.5, 1.0] and list(drawn["b"].lines[0].get_xdata()) == [0.25, 0.75]
    heights = [drawn[name].lines[0].get_ydata() for name in "ab"]
    assert (heights[0] > heights[1]).all() and heights[0][0] > heights[0][1], "in the order of the table, from above"
    assert drawn["b"].lines[2][0].get_segments()[0][:, 0] == pytest.approx([0.1, 0.5])
    assert axis.get_xlabel() == "right answers (95% Wilson)"


def test_tasks_of_few_videos_have_no_bars_and_the_axis_names_no_interval():
    rows = [("a", "backward", "EPM", 0.5, math.nan, math.nan, 4)]
    (axis,) = plot_tasks(pd.DataFrame(rows, columns=["method", "mode", "task", "share", "low", "high", "n"])).axes
    assert axis.get_xlabel() == "right answers" and not bars(axis)["a"].has_xerr
