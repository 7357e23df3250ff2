"""Figures of what a stream stores: the sink, the cache's length and bytes, and the chunks that are alive.

Every function takes plain DataFrames and numbers and returns a figure of `kvlib.lab.figures.style.new_figure`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import BLACK, LIMIT, STYLE, TWO_COLUMNS, legend_below, looks_of, new_figure

COLUMNS = 3  # of panels in `plot_timeline`


def plot_sinks(increments: pd.DataFrame, sinks: pd.DataFrame, constant: int = 128) -> Figure:
    """01: the detected sink of each configuration, and what each later chunk added.

    Args:
        increments: one row per chunk: `configuration` (label), `chunk`, `new_tokens` (cache length after minus before).
        sinks: one row per configuration: `configuration`, `sink_tokens`.
        constant: the fixed sink size, in tokens, that the detected ones are compared with.
    """
    fig, (left, right) = new_figure(TWO_COLUMNS, 3.6, ncols=2)
    looks = looks_of(sinks["configuration"])
    with plt.rc_context(STYLE):
        colors = [look["color"] for look in looks.values()]
        left.barh(sinks["configuration"].map(label), sinks["sink_tokens"], color=colors, height=0.6)
        left.axvline(constant, label=label(f"a constant {constant}"), **LIMIT | {"color": BLACK})
        left.set_ylim(max(len(sinks), 3) - 0.5, -0.5)  # from the top down; a single bar does not fill the panel
        left.set(xlabel=label("sink (tokens)"), title=label("Sink = the whole first chunk"))
        left.grid(axis="y", visible=False)
        for name, rows in increments.groupby("configuration", sort=False):
            right.plot(rows["chunk"], rows["new_tokens"], label=label(name), **looks[name])
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
    fig, (left, right) = new_figure(TWO_COLUMNS, 3.4, ncols=2)
    looks = looks_of(chunks["run"].unique())
    scale, unit = _byte_unit(max(chunks["cache_bytes"].max(), limit_bytes or 0))
    with plt.rc_context(STYLE):
        for axis, column, factor in ((left, "cache_tokens", 1), (right, "cache_bytes", 1 / scale)):
            for run, rows in chunks.groupby("run", sort=False):
                axis.plot(rows["chunk"], rows[column] * factor, label=label(run), **looks[run] | {"marker": ""})
                _mark_events(axis, rows["chunk"], rows[column] * factor, rows["event"], looks[run]["color"])
            axis.set(xlabel=label("chunk"), xlim=(0, None), ylim=(0, None))
        left.axhline(budget_tokens, label=label(f"budget {budget_tokens:,}"), **LIMIT)
        left.set(ylabel=label("cache length (tokens)"), title=label("Tokens"))
        if limit_bytes is not None:
            right.axhline(
                limit_bytes / scale, label=label(f"limit {limit_bytes / scale:.3g} {unit}"), **LIMIT | {"linestyle": "-."}
            )
        right.set(ylabel=label(f"keys and values ({unit})"), title=label("Bytes"))
        legend_below(fig, ncols=3)
    return fig


def plot_timeline(timeline: pd.DataFrame) -> Figure:
    """05: which chunks are alive at each moment of a stream, a panel per policy.

    Args:
        timeline: one row per living chunk and moment: `contender`, `moment`, `alive` (chunk numbers).
    """
    looks, last = looks_of(timeline["contender"].unique()), int(timeline["moment"].max())
    columns = min(COLUMNS, len(looks))
    rows = -(-len(looks) // columns)
    size = dict(ncols=columns, nrows=rows, sharex=True, sharey=True, squeeze=False)
    fig, axes = new_figure(TWO_COLUMNS, 0.7 + 1.7 * rows, **size)
    with plt.rc_context(STYLE):
        for axis, (name, look) in zip(axes.flat, looks.items(), strict=False):
            alive, cells = timeline[timeline["contender"].map(str) == name], np.zeros((last + 1, last + 1))
            cells[alive["alive"], alive["moment"]] = 1
            edges = (-0.5, last + 0.5, -0.5, last + 0.5)
            fill = dict(cmap=ListedColormap(["white", look["color"]]), vmin=0, vmax=1, interpolation="nearest")
            axis.imshow(cells, origin="lower", extent=edges, aspect="auto", **fill)
            axis.set_title(label(name))
            axis.grid(visible=False)
        for axis in list(axes.flat)[len(looks) :]:
            axis.set_visible(False)
        for axis in list(axes.flat)[len(looks) - columns : len(looks)]:  # the lowest of each column has the numbers
            axis.tick_params(labelbottom=True)
        fig.supxlabel(label("moment (chunks streamed)"))
        fig.supylabel(label("chunk that is alive"))
    return fig


def _mark_events(axis: Axes, chunk: pd.Series, height: pd.Series, event: pd.Series, color: str) -> None:
    """Mark the chunks with an eviction by a thick line along the lower edge, the end of memory by a cross on the line."""
    evicted, ended = event == "eviction", event == "out of memory"
    if evicted.any():
        entry, edge = label(f"eviction ({evicted.sum()})"), axis.get_xaxis_transform()
        band = {"color": color, "alpha": 0.4, "linewidth": 5, "solid_capstyle": "butt"}
        # Half a chunk to both sides; NaN ends a stretch.
        at = np.ravel([(x - 0.5, x + 0.5) if hit else (np.nan, np.nan) for x, hit in zip(chunk, evicted, strict=True)])
        axis.plot(at, np.full(len(at), 0.03), transform=edge, label=entry, **band)
    if ended.any():
        cross = {"marker": "X", "s": 40, "zorder": 3}
        axis.scatter(chunk[ended], height[ended], color=color, label=label("out of memory"), **cross)


def _byte_unit(largest: float) -> tuple[int, str]:
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")
