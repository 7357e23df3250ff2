"""What is kept of a stream for its panel: rows and small pictures, both bounded however long the stream runs."""

import base64
import io

import numpy as np
from PIL import Image

from kvlib.lab.figures.dropping_plots import faded

MAX_ROWS = 512
LAST_PICTURES = 120
PICTURE_HEIGHT, MAX_PICTURE_WIDTH = 36, 128  # pixels, of a frame
MAX_GRIDS = 8  # temporal grids of a chunk that its picture shows
GAP = 2  # pixels between two grids


def add_row(rows: list[dict], row: dict) -> list[dict]:
    """`rows` with one more; when there are `MAX_ROWS`, each two become one, so that older rows stand for more chunks.

    Two rows become the later one, with the mean of their `seconds` and the `event` of either.
    """
    if len(rows) >= MAX_ROWS:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [
            late | {"seconds": (early["seconds"] + late["seconds"]) / 2, "event": early["event"] or late["event"]}
            for early, late in pairs
        ]
    return [*rows, row]


def small_jpeg(frame: np.ndarray) -> str:
    """A frame uint8 [H, W, 3] as a JPEG of `PICTURE_HEIGHT`, in base64."""
    return _jpeg(_small(frame))


def grids_jpeg(frames: np.ndarray, kept: np.ndarray) -> str:
    """A chunk's temporal grids side by side as a JPEG of `PICTURE_HEIGHT`, in base64.

    frames: uint8 [T, H, W, 3]. kept: bool [grids, rows, columns] of merged patches; those that are dropped are faded to white.
    Of more than `MAX_GRIDS` grids as many are shown, evenly chosen, with the first and the last. A grid is shown by its last
    frame.
    """
    each = -(-len(frames) // len(kept))  # frames of a grid
    shown = np.linspace(0, len(kept) - 1, min(len(kept), MAX_GRIDS)).round().astype(int)
    parts = []
    for grid in shown:
        small = _small(frames[min(each * (grid + 1), len(frames)) - 1])
        parts += [np.full((PICTURE_HEIGHT, GAP, 3), 255, np.uint8), faded(small[None], kept[grid, None])[0]]
    return _jpeg(np.concatenate(parts[1:], axis=1))


def _small(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] of `PICTURE_HEIGHT`."""
    width = round(frame.shape[1] * PICTURE_HEIGHT / frame.shape[0])
    size = min(max(width, 1), MAX_PICTURE_WIDTH), PICTURE_HEIGHT
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _jpeg(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
