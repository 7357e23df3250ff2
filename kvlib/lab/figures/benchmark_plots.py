"""Figures of public benchmarks: shares of right answers by task, and answers about the present against those about the past."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kvlib.lab.figures.labels import label, literal
from kvlib.lab.figures.style import LIMIT, ONE_COLUMN, STYLE, TWO_COLUMNS, legend_below, line_styles, new_figure

APART = 0.02  # of shares, between points that are equal


def plot_modes(modes: pd.DataFrame) -> Figure:
    """07: the score of real-time questions against that of backward ones, a point per method, with both intervals.

    The points stand a little apart from left to right, so that equal ones do not hide each other.

    Args:
        modes: one row per method and mode: `method`, `mode` ("real-time" and "backward" are drawn), `score`, `low`, `high`.
    """
    fig, axis = new_figure(ONE_COLUMN, 3.2)
    methods = list(modes["method"].unique())
    with plt.rc_context(STYLE):
        for i, (style, method) in enumerate(zip(line_styles(), methods, strict=False)):
            rows, shift = modes[modes["method"] == method], APART * (i - (len(methods) - 1) / 2)
            now, past = (rows[rows["mode"] == mode].iloc[0] for mode in ("real-time", "backward"))
            bars = [[[max(row["score"] - row["low"], 0)], [max(row["high"] - row["score"], 0)]] for row in (now, past)]
            look = style | {"linestyle": "", "capsize": 2, "elinewidth": 0.7}
            axis.errorbar(now["score"] + shift, past["score"], xerr=bars[0], yerr=bars[1], label=label(method), **look)
        axis.plot([0, 1], [0, 1], **LIMIT)
        axis.set(xlabel=label("right, real-time"), ylabel=label("right, backward"), xlim=(-0.06, 1.06), ylim=(-0.06, 1.06))
        legend_below(fig, ncols=2)
    return fig


def plot_tasks(tasks: pd.DataFrame) -> Figure:
    """07: the share of right answers to each task, with its 95% Wilson interval, a mark per method.

    Args:
        tasks: one row per method and task: `method`, `mode`, `task`, `share`, `low`, `high`, `n`; a task without an answer has
            NaN and is left out.
    """
    known = tasks[tasks["share"].notna()]
    names = known[["mode", "task"]].drop_duplicates().reset_index(drop=True)
    places = {(row.mode, row.task): len(names) - 1 - row.Index for row in names.itertuples()}
    methods = list(known["method"].unique())
    fig, axis = new_figure(TWO_COLUMNS, 0.9 + len(names) * (0.16 + 0.08 * len(methods)))
    with plt.rc_context(STYLE):
        for i, (style, method) in enumerate(zip(line_styles(), methods, strict=False)):
            rows = known[known["method"] == method]
            shift = 0.5 * ((len(methods) - 1) / 2 - i) / len(methods)
            at = [places[row.mode, row.task] + shift for row in rows.itertuples()]
            bars = [(rows["share"] - rows["low"]).clip(lower=0), (rows["high"] - rows["share"]).clip(lower=0)]
            look = style | {"linestyle": "", "capsize": 2, "elinewidth": 0.7}
            axis.errorbar(rows["share"], at, xerr=bars, label=label(method), **look)
        counts = known.groupby(["mode", "task"])["n"].max()
        texts = [f"{label(mode)}, {literal(task)} ({counts[mode, task]})" for mode, task in places]
        axis.set_yticks(list(places.values()), texts)
        axis.set(xlabel=label("right answers (95% Wilson)"), xlim=(-0.03, 1.03))
        axis.grid(axis="y", visible=False)
        legend_below(fig, ncols=3)
    return fig
