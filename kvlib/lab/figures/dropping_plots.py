"""The figure of what `drop_static` keeps. It takes plain DataFrames and numbers, as those of `memory_plots` do."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import STYLE, TEXT, TWO_COLUMNS, legend_below, looks_of, new_figure

COLUMNS = 4  # temporal grids side by side
FADED = 0.2  # of the contrast is left of what is dropped


def plot_kept(counts: pd.DataFrame, kept: pd.DataFrame, picture: str, drop_static: float) -> Figure:
    """01: a chunk's temporal grids with what is dropped of them faded, and tokens per second of video over the threshold.

    Args:
        counts: one row per chunk size and threshold: `chunk_frames`, `drop_static`, `tokens_per_s` (kept).
        kept: one row per merged patch of the chunk: `grid`, `row`, `column`, `kept` (1 or 0).
        picture: a frame of each temporal grid, all of one size and one below the other: a JPEG or PNG in base64.
        drop_static: the threshold that `kept` was found with.
    """
    shape = tuple(kept[["grid", "row", "column"]].max() + 1)
    mask = np.zeros(shape, bool)
    mask[kept["grid"], kept["row"], kept["column"]] = kept["kept"] == 1
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
    grids = faded(pixels.reshape(len(mask), -1, *pixels.shape[1:]), mask)
    columns, rows = min(COLUMNS, len(grids)), -(-len(grids) // COLUMNS)
    height = min(TWO_COLUMNS / columns * grids.shape[1] / grids.shape[2] + 0.2, 2.0)  # inches, of a row of pictures
    ratios = [height] * rows + [2.2]
    fig, axes = new_figure(
        TWO_COLUMNS, sum(ratios) + 0.8, nrows=rows + 1, ncols=columns, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    with plt.rc_context(STYLE):
        for number, axis in enumerate(axes[:-1].flat):
            axis.set(xticks=[], yticks=[], visible=number < len(grids))
            if number < len(grids):
                stays, total = mask[number].sum(), mask[number].size
                axis.imshow(grids[number])
                axis.set_title(
                    label(f"grid {number}: all {total}") if stays == total else label(f"grid {number}: {stays} of {total}")
                )
        for axis in axes[-1]:
            axis.remove()
        below = fig.add_subplot(axes[0, 0].get_gridspec()[-1, :])
        _plot_counts(below, counts)
        below.set(xlabel=label("threshold (share of full scale)"), ylabel=label("tokens a second of video"), ylim=(0, None))
        fig.suptitle(label(f"One chunk at threshold {drop_static:g}; what is dropped is faded to white"), fontsize=TEXT)
        legend_below(fig, ncols=2)
    return fig


def _plot_counts(axis: Axes, counts: pd.DataFrame) -> None:
    """Draw the tokens a second over the threshold, a point for every threshold that was counted and every chunk size."""
    values = sorted(counts["drop_static"].unique())
    looks = looks_of(f"{frames} frames a chunk" for frames in sorted(counts["chunk_frames"].unique()))
    for i, ((name, look), (_, found)) in enumerate(zip(looks.items(), counts.groupby("chunk_frames"), strict=True)):
        found = found.sort_values("drop_static")
        at = found["drop_static"].map(values.index) + 0.1 * (i - (len(looks) - 1) / 2)  # equal counts hide no other
        axis.plot(at, found["tokens_per_s"], label=label(name), **look | {"linestyle": ""})
    axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axis.set_xlim(-0.5, len(values) - 0.5)


def faded(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frames uint8 [grids, H, W, 3], almost white where `mask`, bool [grids, rows, columns] of merged patches, is False."""
    down, across = (np.arange(size) * cells // size for size, cells in zip(frames.shape[1:3], mask.shape[1:], strict=True))
    clear = mask[:, down][:, :, across, None]
    return np.where(clear, frames, 255 - FADED * (255 - frames.astype(float))).round().astype(np.uint8)
