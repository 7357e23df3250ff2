"""The figure of a sweep shows the values of its table."""

import pandas as pd

from kvlib.lab.sweep.grid import Sweep
from kvlib.lab.sweep.table import differing, draw, plot_sweep


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


def test_parameters_and_measures_are_drawn_as_they_are_written(tmp_path):
    values = ["$a_b$", "_x", "50%^2", "\x00"]
    rows = [dict(MODE=mode, **{"_K": k}, name="$m_1$", value=k, low=k, high=k, unit="$") for mode in values for k in (1, 2)]
    table = pd.DataFrame(rows).assign(text=None)
    sweep = Sweep(tmp_path / "n.ipynb", {"MODE": values, "_K": [1, 2]}, tmp_path)
    assert draw(table, sweep)
    assert (tmp_path / "sweep.png").stat().st_size and (tmp_path / "sweep.pdf").stat().st_size
    shown = [*values[:3], r"\x00"]
    axis, bar = plot_sweep(table, sweep.grid, "$m_1$").axes
    assert drawn(axis.get_yticklabels()) == shown and drawn([bar.yaxis.label]) == ["$m_1$ ($)"]
    some = table[table["_K"] == 1]
    axis = plot_sweep(some, sweep.grid | {"_K": [1]}, "$m_1$").axes[0]
    assert drawn(axis.get_xticklabels()) == shown and drawn([axis.yaxis.label]) == ["$m_1$ ($)"]


def drawn(texts) -> list[str]:
    """The texts after matplotlib has looked for formulas in them."""
    found = [text._preprocess_math(text.get_text()) for text in texts]
    return ["a formula" if is_formula else shown.strip() for shown, is_formula in found]
