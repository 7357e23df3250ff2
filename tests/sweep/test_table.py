"""The figure of a sweep shows the values of its table."""

import pandas as pd

from kvlib.lab.sweep.table import differing, plot_sweep


def test_figures_show_the_values():
    grid = {"TOKENS": [1, 3], "MODE": ["remap", "keep"], "SEED": [0, 1]}
    rows = [
        {"TOKENS": t, "MODE": m, "SEED": s, "name": "share", "value": t + s, "low": t - 1, "high": t + 2, "unit": "%"}
        for t in grid["TOKENS"]
        for m in grid["MODE"]
        for s in grid["SEED"]
    ]
    table = pd.DataFrame(rows)
    assert differing(table) == ["share"]
    axis = plot_sweep(table, grid, "share").axes[0]
    assert axis.get_title() == "mean over SEED"
    assert [float(text.get_text()) for text in axis.texts] == [1.5, 1.5, 3.5, 3.5]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["remap", "keep"]
    some = table[(table["MODE"] == "keep") & (table["SEED"] == 0)]
    axis = plot_sweep(some, grid | {"MODE": ["keep"], "SEED": [0]}, "share").axes[0]
    assert (list(axis.lines[0].get_xdata()), list(axis.lines[0].get_ydata())) == ([1, 3], [1, 3])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("TOKENS", "share (%)")
