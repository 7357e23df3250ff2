"""Figures of recall: exact answers over age with intervals over streams, and how the archive ranks its chunks."""

from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import (
    GREY,
    LIMIT,
    STYLE,
    TWO_COLUMNS,
    legend_below,
    looks_of,
    new_figure,
    plot_points,
    shares_axis,
)

WITH_RECALL = "with recall"  # the panel of the methods that recall
TICK_WIDTH = 11  # characters of a line of `plot_ranking`'s bars
FEWEST_BARS = 3  # of `plot_ranking`: a single bar would be as tall as the panel


def plot_recall(scores: pd.DataFrame) -> Figure:
    """06: share of exact answers about cards over their age, a row of panels per stream length, a point per method.

    Args:
        scores: one row per point: `chunks` (stream length), `panel` (title), `method`, `age`, `accuracy` with its interval
            `low` and `high`, and `streams`.
    """
    lengths, panels = list(scores["chunks"].unique()), list(scores["panel"].unique())
    recalled = scores["panel"] == WITH_RECALL  # "random" is a policy everywhere else
    scores = scores.assign(method=scores["method"].mask(recalled & (scores["method"] == "random"), "random chunk"))
    size = dict(nrows=len(lengths), ncols=len(panels))
    fig, axes = new_figure(TWO_COLUMNS, 1.7 + 2.2 * len(lengths), **size, sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for across, length in zip(axes, lengths, strict=True):
            for axis, panel in zip(across, panels, strict=True):
                rows = scores[(scores["chunks"] == length) & (scores["panel"] == panel)]
                plot_points(axis, rows, "age", "method")
                shares_axis(axis)
                axis.set_title(label(f"{panel}, {length} chunks"))
            streams = scores.loc[scores["chunks"] == length, "streams"].max()
            across[0].set_ylabel(label(f"exact answers\n(n = {streams} streams)"))
        for axis in axes[-1]:
            axis.set_xlabel(label("age (chunks since shown)"))
        legend_below(fig, ncols=3)
    return fig


def plot_ranking(attention: pd.DataFrame, firsts: pd.DataFrame, threshold: float) -> Figure:
    """06: the attention that evicted chunks get, and what is ranked first when a card is asked for.

    Args:
        attention: `kind` (a line each) and `times`, the share of the attention over an even share.
        firsts: `first` (what the chunk ranked first shows) and `questions` (how often).
        threshold: the multiple of an even share that `recall="auto"` asks for.
    """
    fig, axes = new_figure(TWO_COLUMNS, 3.6, ncols=2, width_ratios=[3, 2])
    looks = looks_of(attention["kind"].unique())
    with plt.rc_context(STYLE):
        for kind, rows in attention.groupby("kind", sort=False):
            look = {"color": looks[kind]["color"], "linestyle": looks[kind]["linestyle"]}
            sns.ecdfplot(x=rows["times"], ax=axes[0], label=label(f"{kind} (n = {len(rows)})"), **look)
        axes[0].axvline(threshold, label=label("least for auto"), **LIMIT)
        axes[0].set_xscale("log", base=2)
        axes[0].xaxis.set_major_formatter(ScalarFormatter())
        axes[0].set(xlabel=label("attention / even share"), ylabel=label("share of the questions"))
        places, asked = range(len(firsts))[::-1], firsts["questions"].sum()
        axes[1].barh(places, firsts["questions"], height=0.5, color=GREY)
        for place, count in zip(places, firsts["questions"], strict=True):
            axes[1].text(count, place, f" {count}", va="center")
        axes[1].set_yticks(places, [fill(label(first), TICK_WIDTH) for first in firsts["first"]])
        axes[1].set(xlabel=label("questions"), title=label(f"ranked first (n = {asked})"))
        axes[1].set_ylim(len(firsts) - max(len(firsts), FEWEST_BARS) - 0.5, len(firsts) - 0.5)
        axes[1].margins(x=0.35)
        axes[1].grid(axis="y", visible=False)
        legend_below(fig, ncols=2)
    return fig
