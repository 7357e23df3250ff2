"""Figures of recall show the given data, with the given intervals."""

import pandas as pd
import pytest
from drawn import legend_texts, line
from matplotlib.container import ErrorbarContainer

from kvlib.lab.figures.recall_plots import plot_ranking, plot_recall


def test_recall_has_a_panel_for_every_length_and_group_with_the_given_intervals():
    cells = [
        (48, "without recall", "remap", 10, 0.1),
        (48, "without recall", "remap", 40, 0.0),
        (48, "with recall", "recall 2", 10, 1.0),
        (200, "without recall", "remap", 190, 0.2),
        (200, "with recall", "recall 2", 190, 0.9),
    ]
    scores = pd.DataFrame(cells, columns=["chunks", "panel", "method", "age", "accuracy"])
    scores = scores.assign(low=scores["accuracy"] - 0.05, high=scores["accuracy"] + 0.02, streams=scores["chunks"] + 1)
    fig = plot_recall(scores)
    assert [axis.get_title() for axis in fig.axes] == [
        "without recall, 48 chunks", "with recall, 48 chunks", "without recall, 200 chunks", "with recall, 200 chunks",
    ]  # fmt: skip
    (remap,) = [found for found in fig.axes[0].containers if isinstance(found, ErrorbarContainer)]
    assert list(remap.lines[0].get_ydata()) == [0.1, 0.0]
    assert list(remap.lines[0].get_xdata()) == [0, 1] and remap.lines[0].get_linestyle() == "None"
    assert remap.lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.05, 0.12])
    assert "49 streams" in fig.axes[0].get_ylabel() and "201 streams" in fig.axes[2].get_ylabel()
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["10", "40"]
    assert set(legend_texts(fig)) == {"remap", "recall 2"}


def test_the_ranking_shows_shares_counts_and_the_threshold():
    attention = pd.DataFrame({"kind": ["the right card"] * 3 + ["ranked first, now"], "times": [4.0, 8.0, 16.0, 1.5]})
    firsts = pd.DataFrame({"first": ["the chunk asked for", "another card"], "questions": [9, 2]})
    fig = plot_ranking(attention, firsts, threshold=3.0)
    shares, counts = fig.axes
    assert legend_texts(fig) == ["the right card (n = 3)", "ranked first, now (n = 1)", "least for auto"]
    at, share = line(shares, "the right card (n = 3)")
    assert at[1:] == [4, 8, 16] and share[1:] == pytest.approx([1 / 3, 2 / 3, 1])
    assert line(shares, "least for auto")[0] == [3, 3]
    assert [bar.get_width() for bar in counts.patches] == [9, 2]
    assert [text.get_text() for text in counts.get_yticklabels()] == ["the chunk\nasked for", "another\ncard"]
    assert counts.get_title() == "ranked first (n = 11)"


def test_a_random_chunk_is_not_the_policy_random():
    cells = [("without recall", "random", 0.1), ("with recall", "random", 0.2)]
    scores = pd.DataFrame(cells, columns=["panel", "method", "accuracy"]).assign(chunks=48, age=10, low=0, high=1, streams=9)
    assert legend_texts(plot_recall(scores)) == ["random", "random chunk"]
