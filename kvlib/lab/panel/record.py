"""What is kept of a stream for its panel: rows and small pictures, both bounded however long the stream runs."""

import base64
import io

import numpy as np
from PIL import Image

MAX_ROWS = 512
LAST_PICTURES = 120
PICTURE_HEIGHT, MAX_PICTURE_WIDTH = 36, 128  # pixels


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
    width = round(frame.shape[1] * PICTURE_HEIGHT / frame.shape[0])
    size = min(max(width, 1), MAX_PICTURE_WIDTH), PICTURE_HEIGHT
    buffer = io.BytesIO()
    Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
