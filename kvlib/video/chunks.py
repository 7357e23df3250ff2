"""From a video file to chunks of frames, decoded one batch at a time by decord."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from numbers import Integral, Real
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VideoChunk:
    """Frames of a video: uint8 [T, H, W, 3], and the time of each in seconds from the start of the video.

    fps: the rate at which they were sampled, for `append_video_chunk`. Reads as the pair `(time_s, frames)` too.
    """

    frames: np.ndarray
    times: tuple[float, ...]
    fps: float

    @property
    def time_s(self) -> float:
        """The time of the last frame."""
        return self.times[-1]

    def __getitem__(self, index: int):
        return (self.time_s, self.frames)[index]


class VideoChunks:
    """The chunks of a video file, `chunk_frames` frames each, sampled at `sample_fps` frames per second.

    Iterating yields a `VideoChunk` each. While one chunk is used the next is decoded, and no more than that. The last chunk
    may be shorter.

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

    def __iter__(self) -> Iterator[VideoChunk]:
        batches = [self._frames[i : i + self.chunk_frames] for i in range(0, len(self._frames), self.chunk_frames)]
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(self._decode, batches[0])
            for batch, following in zip_longest(batches, batches[1:]):
                frames = upcoming.result()
                if following is not None:
                    upcoming = ahead.submit(self._decode, following)
                times = tuple(float(index / self.video_fps) for index in batch)
                yield VideoChunk(frames, times, min(self.sample_fps, self.video_fps))

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
