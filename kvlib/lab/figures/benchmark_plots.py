"""Figures of public benchmarks: shares of right answers by task, and about the present and the past."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kvlib.lab.figures.labels import label, literal
from kvlib.lab.figures.style import INTERVAL, STYLE, TWO_COLUMNS, interval_bars, legend_below, looks_of, new_figure

MODES = ("real-time", "backward")
QUARTERS = [0, 0.25, 0.5, 0.75, 1]


def plot_modes(modes: pd.DataFrame) -> Figure:
    """07: the score of real-time questions and that of backward ones, a panel each, with a row per method.

    Args:
        modes: one row per method and mode: `method`, `mode` ("real-time" and "backward" are drawn), `score` with its interval
            `low` and `high`, `n`.
    """
    looks = looks_of(modes["method"].unique())
    fig, axes = new_figure(TWO_COLUMNS, 1.1 + 0.35 * len(looks), ncols=len(MODES), sharey=True)
    with plt.rc_context(STYLE):
        for axis, mode in zip(axes, MODES, strict=True):
            rows = modes[modes["mode"] == mode].set_index(modes.loc[modes["mode"] == mode, "method"].map(str))
            for place, (method, look) in zip(range(len(looks))[::-1], looks.items(), strict=True):
                row = rows.loc[[method]]
                axis.errorbar(row["score"], [place], xerr=interval_bars(row, "score"), **look | INTERVAL)
            axis.set_yticks(range(len(looks))[::-1], [label(method) for method in looks])
            axis.set(title=label(f"{mode} (n = {rows['n'].max()})"), xlabel=label("right answers"), xlim=(-0.04, 1.04))
            axis.set(xticks=QUARTERS, ylim=(-0.6, len(looks) - 0.4))
            axis.grid(axis="y", visible=False)
    return fig


def plot_tasks(tasks: pd.DataFrame) -> Figure:
    """07: the share of right answers to each task, with its 95% Wilson interval where it has one, a mark per method.

    Args:
        tasks: one row per method and task: `method`, `mode`, `task`, `share`, `low`, `high`, `n`; a task without an answer has
            NaN and is left out.
    """
    known = tasks[tasks["share"].notna()]
    names = known[["mode", "task"]].drop_duplicates().reset_index(drop=True)
    places = {(row.mode, row.task): len(names) - 1 - row.Index for row in names.itertuples()}
    looks = looks_of(known["method"].unique())
    fig, axis = new_figure(TWO_COLUMNS, 1.2 + len(names) * (0.2 + 0.1 * len(looks)))
    with plt.rc_context(STYLE):
        for i, (method, look) in enumerate(looks.items()):
            rows = known[known["method"].map(str) == method]
            shift = 0.6 * ((len(looks) - 1) / 2 - i) / len(looks)
            at = [places[row.mode, row.task] + shift for row in rows.itertuples()]
            axis.errorbar(rows["share"], at, xerr=interval_bars(rows, "share"), label=label(method), **look | INTERVAL)
        counts = known.groupby(["mode", "task"])["n"].max()
        texts = [f"{label(mode)}{label(', ')}{literal(task)}{label(f' (n = {counts[mode, task]})')}" for mode, task in places]
        axis.set_yticks(list(places.values()), texts)
        shares = label("right answers (95% Wilson)") if known["low"].notna().any() else label("right answers")
        axis.set(xlabel=shares, xlim=(-0.04, 1.04), xticks=QUARTERS)
        axis.grid(axis="y", visible=False)
        legend_below(fig, ncols=2)
    return fig
