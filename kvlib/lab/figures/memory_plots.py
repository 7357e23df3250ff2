"""Figures of what a stream stores: the sink, the cache's length and bytes, and the chunks that are alive.

Every function takes plain DataFrames and numbers and returns a figure of `kvlib.lab.figures.style.new_figure`.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import BLUE, LIMIT, SERIES, STYLE, TWO_COLUMNS, legend_below, line_styles, new_figure


def plot_sinks(increments: pd.DataFrame, sinks: pd.DataFrame, constant: int = 128) -> Figure:
    """01: the detected sink of each configuration, and what each later chunk added.

    Args:
        increments: one row per chunk: `configuration` (label), `chunk`, `new_tokens` (cache length after minus before).
        sinks: one row per configuration: `configuration`, `sink_tokens`.
        constant: the fixed sink size, in tokens, that the detected ones are compared with.
    """
    fig, (left, right) = new_figure(TWO_COLUMNS, 2.6, ncols=2)
    with plt.rc_context(STYLE):
        left.barh(sinks["configuration"].map(label), sinks["sink_tokens"], color=BLUE, height=0.6)
        left.axvline(constant, label=label(f"a constant {constant}"), **LIMIT | {"color": "black"})
        left.set_ylim(max(len(sinks), 3) - 0.5, -0.5)  # from the top down; a single bar does not fill the panel
        left.set(xlabel=label("sink (tokens)"), title=label("Sink = the whole first chunk"))
        left.grid(axis="y", visible=False)
        for style, (name, rows) in zip(line_styles(), increments.groupby("configuration", sort=False), strict=False):
            right.plot(rows["chunk"], rows["new_tokens"], label=label(name), **style)
        right.set(xlabel=label("chunk"), ylabel=label("tokens added"), title=label("Growth per chunk"))
        right.set_ylim(0, 1.1 * increments["new_tokens"].max())
        right.xaxis.get_major_locator().set_params(integer=True)
        legend_below(fig, ncols=3)
    return fig


def plot_memory(chunks: pd.DataFrame, budget_tokens: int, limit_bytes: int | None = None) -> Figure:
    """02: cache length and bytes while the stream runs, with marks for evictions and for the end of memory.

    Args:
        chunks: one row per chunk and run: `run` (label), `chunk`, `cache_tokens`, `cache_bytes`, `event`, which is ""
            or "eviction" or "out of memory".
        budget_tokens: the eviction budget, a line in the left panel.
        limit_bytes: the memory limit, a line in the right panel.
    """
    fig, (left, right) = new_figure(TWO_COLUMNS, 2.6, ncols=2)
    scale, unit = _byte_unit(max(chunks["cache_bytes"].max(), limit_bytes or 0))
    with plt.rc_context(STYLE):
        for axis, column, factor in ((left, "cache_tokens", 1), (right, "cache_bytes", 1 / scale)):
            for style, (run, rows) in zip(SERIES, chunks.groupby("run", sort=False), strict=False):
                axis.plot(rows["chunk"], rows[column] * factor, label=label(run), **style | {"marker": ""})
                _mark_events(axis, rows["chunk"], rows[column] * factor, rows["event"], style["color"])
            axis.set(xlabel=label("chunk"), ylim=(0, None))
        left.axhline(budget_tokens, label=label(f"budget {budget_tokens:,}"), **LIMIT)
        left.set(ylabel=label("cache length (tokens)"), title=label("Tokens"))
        if limit_bytes is not None:
            right.axhline(limit_bytes / scale, label=label(f"limit {limit_bytes / scale:.3g} {unit}"), **LIMIT)
        right.set(ylabel=label(f"keys and values ({unit})"), title=label("Bytes"))
        legend_below(fig, ncols=3)
    return fig


def plot_timeline(timeline: pd.DataFrame) -> Figure:
    """05: which chunks are alive at each moment of a stream, a panel per policy.

    Args:
        timeline: one row per living chunk and moment: `contender`, `moment`, `alive` (chunk numbers).
    """
    names = list(timeline["contender"].unique())
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    fig, axes = new_figure(TWO_COLUMNS, 0.4 + 1.5 * rows, ncols=columns, nrows=rows, sharex=True, sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for axis, name in zip(axes.flat, names, strict=False):
            alive = timeline[timeline["contender"] == name]
            axis.scatter(alive["moment"], alive["alive"], s=1.5, marker="s", linewidths=0, color=BLUE)
            axis.set_title(label(name), fontsize=7)
        for axis in list(axes.flat)[len(names) :]:
            axis.set_visible(False)
        fig.supxlabel(label("moment (chunks streamed)"), fontsize=8)
        fig.supylabel(label("chunk that is alive"), fontsize=8)
    return fig


def _mark_events(axis: Axes, chunk: pd.Series, height: pd.Series, event: pd.Series, color: str) -> None:
    """Mark evictions by ticks along the lower edge (there is often one per chunk), the end of memory by a cross on the line."""
    evicted, ended = event == "eviction", event == "out of memory"
    if evicted.any():
        ticks = {"color": color, "linestyle": "", "marker": "|", "markersize": 5, "markeredgewidth": 0.6}
        edge = axis.get_xaxis_transform()
        axis.plot(chunk[evicted], [0.03] * evicted.sum(), transform=edge, label=label(f"eviction ({evicted.sum()})"), **ticks)
    if ended.any():
        cross = {"marker": "X", "s": 40, "zorder": 3}
        axis.scatter(chunk[ended], height[ended], color=color, label=label("out of memory"), **cross)


def _byte_unit(largest: float) -> tuple[int, str]:
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
