"""Figures of public benchmarks show the given scores, with the given intervals."""

import pandas as pd
import pytest
from drawn import legend_texts
from matplotlib.container import ErrorbarContainer

from kvlib.lab.figures.benchmark_plots import plot_modes, plot_tasks


def bars(axis) -> dict[str, ErrorbarContainer]:
    return {found.get_label(): found for found in axis.containers if isinstance(found, ErrorbarContainer)}


def test_modes_are_a_point_per_method_with_both_intervals():
    rows = [
        ("window, keep", "backward", 0.2, 0.1, 0.4),
        ("window, keep", "real-time", 0.9, 0.8, 0.95),
        ("window, keep", "total without forward", 0.55, 0.4, 0.7),
        ("recall 2", "backward", 0.7, 0.6, 0.8),
        ("recall 2", "real-time", 0.9, 0.85, 0.95),
    ]
    fig = plot_modes(pd.DataFrame(rows, columns=["method", "mode", "score", "low", "high"]))
    (axis,) = fig.axes
    assert legend_texts(fig) == ["window, keep", "recall 2"]
    points = {name: found.lines[0].get_xydata()[0].tolist() for name, found in bars(axis).items()}
    assert points == {"window, keep": pytest.approx([0.89, 0.2]), "recall 2": pytest.approx([0.91, 0.7])}, "a little apart"
    across, up = (found.get_segments()[0] for found in bars(axis)["recall 2"].lines[2])
    assert across[:, 0] == pytest.approx([0.86, 0.96]) and up[:, 1] == pytest.approx([0.6, 0.8])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("right, real-time", "right, backward")


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
    assert [text.get_text() for text in axis.get_yticklabels()] == ["backward, EPM (20)", "real-time, OCR (30)"]
    assert legend_texts(fig) == ["a", "b"]
    drawn = bars(axis)
    assert list(drawn["a"].lines[0].get_xdata()) == [0.5, 1.0] and list(drawn["b"].lines[0].get_xdata()) == [0.25, 0.75]
    heights = [drawn[name].lines[0].get_ydata() for name in "ab"]
    assert (heights[0] > heights[1]).all() and heights[0][0] > heights[0][1], "in the order of the table, from above"
    assert drawn["b"].lines[2][0].get_segments()[0][:, 0] == pytest.approx([0.1, 0.5])
