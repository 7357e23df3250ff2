"""Figures of recall: exact answers over age with intervals over streams, and how the archive ranks its chunks."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import BLUE, LIMIT, SERIES, STYLE, TWO_COLUMNS, legend_below, line_styles, new_figure

FEWEST_BARS = 3  # of `plot_ranking`: a single bar would be as tall as the panel


def plot_recall(scores: pd.DataFrame) -> Figure:
    """06: share of exact answers about cards over their age, a row of panels per stream length, a line per method.

    Args:
        scores: one row per point: `chunks` (stream length), `panel` (title), `method`, `age`, `accuracy` with its interval
            `low` and `high`, and `streams`.
    """
    lengths, panels = list(scores["chunks"].unique()), list(scores["panel"].unique())
    size = dict(nrows=len(lengths), ncols=len(panels))
    fig, axes = new_figure(TWO_COLUMNS, 0.4 + 2.1 * len(lengths), **size, sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for across, length in zip(axes, lengths, strict=True):
            for axis, panel in zip(across, panels, strict=True):
                _plot_over_age(axis, scores[(scores["chunks"] == length) & (scores["panel"] == panel)])
                axis.set_title(f"{label(panel)}, {label(f'{length} chunks')}")
            streams = scores.loc[scores["chunks"] == length, "streams"].max()
            across[0].set_ylabel(label(f"exact answers\n({streams} streams, 95% over streams)"))
        for axis, panel in zip(axes[-1], panels, strict=True):
            axis.set_xlabel(label("age: chunks since it was on screen"))
            handles = {}
            for row in axes:
                handles |= dict(zip(*reversed(row[panels.index(panel)].get_legend_handles_labels()), strict=True))
            axis.legend(handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    return fig


def plot_ranking(attention: pd.DataFrame, firsts: pd.DataFrame, threshold: float) -> Figure:
    """06: the attention that evicted chunks get, and what is ranked first when a card is asked for.

    Args:
        attention: `kind` (a line each) and `times`, the share of the attention over an even share.
        firsts: `first` (what the chunk ranked first shows) and `questions` (how often).
        threshold: the multiple of an even share that `recall="auto"` asks for.
    """
    fig, axes = new_figure(TWO_COLUMNS, 2.8, ncols=2, width_ratios=[3, 2])
    with plt.rc_context(STYLE):
        for style, (kind, rows) in zip(SERIES, attention.groupby("kind", sort=False), strict=False):
            look = {"color": style["color"], "linestyle": style["linestyle"]}
            sns.ecdfplot(x=rows["times"], ax=axes[0], label=label(f"{kind} (n = {len(rows)})"), **look)
        axes[0].axvline(threshold, label=label("least for auto"), **LIMIT)
        axes[0].set_xscale("log", base=2)
        axes[0].xaxis.set_major_formatter(ScalarFormatter())
        axes[0].set(xlabel=label("attention / even share"), ylabel=label("share of the questions"))
        places = range(len(firsts))[::-1]
        axes[1].barh(places, firsts["questions"], height=0.5, color=BLUE)
        for place, count in zip(places, firsts["questions"], strict=True):
            axes[1].text(count, place, f" {count}", va="center", fontsize=7)
        axes[1].set_yticks(places, [label(first) for first in firsts["first"]])
        axes[1].set(xlabel=label("questions about evicted cards"), title=label("ranked first"))
        axes[1].set_ylim(len(firsts) - max(len(firsts), FEWEST_BARS) - 0.5, len(firsts) - 0.5)
        axes[1].margins(x=0.2)
        axes[1].grid(axis="y", visible=False)
        legend_below(fig, ncols=2)
    return fig


def _plot_over_age(axis: Axes, scores: pd.DataFrame) -> None:
    """A line with intervals for every method; the lines stand a little apart, so that equal values do not hide each other."""
    names, ages = list(scores["method"].unique()), sorted(scores["age"].unique())
    for i, (style, name) in enumerate(zip(line_styles(), names, strict=False)):
        rows = scores[scores["method"] == name].sort_values("age")
        below = (rows["accuracy"] - rows["low"]).clip(lower=0)
        above = (rows["high"] - rows["accuracy"]).clip(lower=0)
        at = rows["age"] * 1.03 ** (i - (len(names) - 1) / 2)
        axis.errorbar(at, rows["accuracy"], yerr=[below, above], label=label(name), capsize=2, elinewidth=0.7, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ages, [f"{age:,}" for age in ages])
    axis.minorticks_off()
    axis.set_ylim(-0.03, 1.05)
