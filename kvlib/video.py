"""From a video file to chunks of frames, decoded one batch at a time by decord, and from frames to one tensor."""

import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kvlib.ops.pixels import check_frame_size

EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}  # of PIL, convertible to RGB


class VideoChunks:
    """The chunks of a video file, `chunk_frames` frames each, sampled at `sample_fps` frames per second.

    Iterating yields `(time_s, frames)`: the time of the chunk's last frame in seconds and uint8 [T, H, W, 3]. While one chunk
    is used the next is decoded, and no more than that. The last chunk may be shorter.

    Raises FileNotFoundError for a missing file, PermissionError for one that may not be read, ValueError for a file without
    a readable frame and for a `chunk_frames` or `sample_fps` that cannot be used.
    """

    def __init__(self, path, chunk_frames: int = 2, sample_fps: float = 2.0):
        if isinstance(chunk_frames, bool) or not isinstance(chunk_frames, Integral) or chunk_frames < 1:
            raise ValueError(f"chunk_frames={chunk_frames!r}: give a whole number of frames, at least 1")
        if isinstance(sample_fps, bool) or not isinstance(sample_fps, Real) or not 0 < sample_fps < math.inf:
            raise ValueError(f"sample_fps={sample_fps!r}: give a finite, positive number of frames per second")
        self.path, self.chunk_frames, self.sample_fps = Path(path), chunk_frames, sample_fps
        self._reader = _open(self.path)
        self.video_fps = float(self._reader.get_avg_fps())
        step = max(self.video_fps / sample_fps, 1.0)  # never the same frame twice
        self._frames = np.arange(0, len(self._reader), step).astype(int)

    def __len__(self) -> int:
        """Number of chunks."""
        return -(-len(self._frames) // self.chunk_frames)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        batches = [self._frames[i : i + self.chunk_frames] for i in range(0, len(self._frames), self.chunk_frames)]
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(self._decode, batches[0])
            for batch, following in zip_longest(batches, batches[1:]):
                frames = upcoming.result()
                if following is not None:
                    upcoming = ahead.submit(self._decode, following)
                yield float(batch[-1] / self.video_fps), frames

    def _decode(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self._reader.get_batch(batch).asnumpy()
        except Exception as error:  # decord raises its own type
            raise ValueError(
                f"{self.path}: frames {batch[0]} to {batch[-1]} cannot be decoded; the file is damaged there. "
                "Re-encode it (for example to H.264 in MP4)"
            ) from error


def _open(path: Path):
    import decord

    if not path.is_file():
        raise FileNotFoundError(f"no video file at {str(path)!r}: check VIDEO_PATH")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"the video file {str(path)!r} may not be read: change its permissions")
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
    except Exception as error:  # decord raises its own type
        raise ValueError(
            f"{str(path)!r} ({path.stat().st_size} bytes) is not a readable video: give a file with a video stream, "
            "such as H.264 in MP4"
        ) from error
    if len(reader) == 0:
        raise ValueError(f"{str(path)!r} holds no frames: give a video with at least one")
    return reader


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
