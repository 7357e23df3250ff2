"""From frames in any of the usual forms to one tensor."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image

from kvlib.ops.pixels import check_frame_size

EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}  # of PIL, convertible to RGB


def stack_frames(frames) -> torch.Tensor:
    """One uint8 tensor [T, H, W, 3] of frames.

    frames: uint8 [T, H, W, 3] with any strides, or PIL images and uint8 [H, W, 3] in a list. PIL images with at most 8 bits
    per channel are converted to RGB.

    Raises ValueError for no frames, mixed sizes, sizes that `check_frame_size` refuses, and what is not 8-bit RGB.
    """
    if isinstance(frames, np.ndarray | torch.Tensor) and frames.dtype != object:
        stacked = _as_tensor(frames)
    elif isinstance(frames, Iterable) and getattr(frames, "ndim", 1):  # an array of objects without axes is no list
        images = [_as_tensor(frame) for frame in frames]
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) > 1:
            raise ValueError(
                f"frames of mixed sizes (height, width) {[s[:2] for s in shapes]}: resize them to one size per chunk"
            )
        stacked = torch.stack(images) if images else torch.empty(0)
    else:
        raise ValueError(f"frames of type {type(frames).__name__}: give a list of images, or uint8 [frames, height, width, 3]")
    if not stacked.ndim or not len(stacked):
        raise ValueError("a chunk of zero frames: give at least one frame")
    if stacked.ndim != 4 or stacked.shape[-1] != 3:
        raise ValueError(f"frames of shape {tuple(stacked.shape)}: give uint8 RGB, [frames, height, width, 3]")
    check_frame_size(*stacked.shape[1:3])
    return stacked


def _as_tensor(frame) -> torch.Tensor:
    """uint8 of any shape. Memory that torch cannot share (negative strides, read-only) is copied."""
    if isinstance(frame, Image.Image):
        if frame.mode not in EIGHT_BIT_MODES:
            raise ValueError(f"a PIL image of mode {frame.mode!r}: scale it to 8 bits per channel and convert it to 'RGB'")
        try:
            frame = np.array(frame.convert("RGB"))
        except OSError as error:  # PIL may read the file only now
            raise ValueError(f"a PIL image whose file is damaged ({error}): save it again") from error
    if not isinstance(frame, np.ndarray | torch.Tensor):
        raise ValueError(f"a frame of type {type(frame).__name__}: give a PIL image, or uint8 RGB [height, width, 3]")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"frames of type {frame.dtype}: give uint8 RGB, with the values scaled to 0..255")
    return torch.from_numpy(np.require(frame, requirements="CW")) if isinstance(frame, np.ndarray) else frame
