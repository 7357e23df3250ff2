"""Which frames of a video a run takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from kvlib.video import VideoChunk, VideoChunks


@dataclass(frozen=True)
class VideoSource:
    """A video file and how a run samples it: `chunk_frames` frames a chunk at `sample_fps` frames per second, resized to
    `height` pixels with the aspect ratio kept; 0 = as they are. Frames are never enlarged."""

    path: Path
    chunk_frames: int = 2
    sample_fps: float = 2.0
    height: int = 0

    def __iter__(self) -> Iterator[VideoChunk]:
        """The chunks, resized. Raises what `VideoChunks` raises."""
        return map(self.resized, self.opened())

    def opened(self) -> VideoChunks:
        """The chunks as they are in the file; afterwards its `trouble` says what was wrong with it."""
        return VideoChunks(self.path, self.chunk_frames, self.sample_fps)

    def resized(self, chunk: VideoChunk) -> VideoChunk:
        """The chunk with its frames at `height`."""
        own = chunk.frames.shape[1]
        height = height_within(self.height, own)
        return chunk if height == own else replace(chunk, frames=resize_to_height(chunk.frames, height))

    def chunks(self, label: str = "chunks") -> Iterator[tuple[int, VideoChunk]]:
        """Index and chunk, with a progress bar. Raises what `VideoChunks` raises."""
        return enumerate(tqdm(self, desc=label, total=self.count_chunks(), leave=False))

    def count_chunks(self) -> int:
        """Number of chunks, counted from the packets of the file. Raises what `VideoChunks` raises."""
        return len(self.opened())

    def check_interval(self, interval: int) -> None:
        """Raise ValueError when a question after every `interval` chunks would never be asked, as the video is shorter."""
        total = self.count_chunks()
        if interval > total:
            raise ValueError(
                f"ASK_INTERVAL={interval}: {self.path} has only {total} chunks of {self.chunk_frames} frames, so no question "
                f"would be asked; give an interval of at most {total}, or a longer video"
            )


def height_within(height: int, own: int) -> int:
    """The height in pixels that frames of height `own` get: never more than their own; 0 = their own."""
    return min(height or own, own)


def resize_to_height(frames: np.ndarray, height: int) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] resized to `height` pixels, the aspect ratio kept."""
    width = round(frames.shape[2] * height / frames.shape[1])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return interpolate(pixels, (height, width), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
