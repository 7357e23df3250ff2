"""Figures of what re-rotated keys do: the attention of a question, and the error of the keys.

Every function takes a plain DataFrame and returns a figure of `kvlib.lab.figures.style.new_figure`.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import FILLS, LIMIT, ONE_COLUMN, STYLE, TWO_COLUMNS, legend_below, looks_of, new_figure

REGIONS = ("sink", "history", "recent", "question")  # of the cache, from the bottom of a bar to its top


def plot_attention(shares: pd.DataFrame) -> Figure:
    """04: shares of the question's attention by layer, a panel per position mode; mean over heads and streams.

    Args:
        shares: `kvlib.lab.study.diagnosis.attention_by_region` of one or more streams, with a column `position_mode`.
    """
    modes = list(shares["position_mode"].unique())
    fig, axes = new_figure(TWO_COLUMNS, 3.4, ncols=len(modes), sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for axis, mode in zip(axes[0], modes, strict=True):
            table = shares[shares["position_mode"] == mode].pivot_table(index="layer", columns="region", values="share")
            bottom = 0 * table.iloc[:, 0]
            for region in REGIONS:
                axis.bar(table.index, table[region], bottom=bottom, label=label(region), edgecolor="white", **FILLS[region])
                bottom = bottom + table[region]
            axis.set(title=label(mode), xlabel=label("layer"), ylim=(0, 1))
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(axis="x", visible=False)
        axes[0][0].set_ylabel(label(f"share of the question's attention\n(mean of {_heads(shares)} heads)"))
        legend_below(fig, ncols=4)
    return fig


def plot_drift(drift: pd.DataFrame) -> Figure:
    """05: relative error of bf16 keys over the number of evictions, when the last result or the original is re-rotated.

    Args:
        drift: `kvlib.lab.study.retention.drift`: `turns` (evictions), `method` ("chain" or "original"), `error`.
    """
    fig, axis = new_figure(ONE_COLUMN, 3.4)
    looks = looks_of(drift["method"].unique())
    with plt.rc_context(STYLE):
        for method, rows in sorted(drift.groupby("method", sort=False), reverse=True):  # "chain", which is hollow, on top
            axis.loglog(rows["turns"], rows["error"], label=label(method), **looks[method] | {"linestyle": ""})
        axis.axhline(2**-8, label=label("one bf16 rounding, 2⁻⁸"), **LIMIT)
        axis.set(xlabel=label("evictions"), ylabel=label("relative error of the keys"))
        legend_below(fig, ncols=1)
    return fig


def _heads(shares: pd.DataFrame) -> int:
    """How many heads of how many streams the mean of a layer is taken over."""
    counted = ["stream", "head"] if "stream" in shares else ["head"]
    return len(shares[counted].drop_duplicates()) if "head" in shares else 1
