"""How many tokens of a video's chunks are kept with `drop_static`: counted from the pixels, without a model."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from kvlib.encoding import count_tokens, next_time
from kvlib.families import family_of
from kvlib.lab.video.source import VideoSource
from kvlib.ops.pixels import changed_patches, patchify
from kvlib.video import VideoChunk
from kvlib.video.chunks import LONGEST_GAP

EXAMPLE_FRAMES = 8  # the example is a chunk of about so many frames
EXAMPLE_WIDTH = 240  # pixels at most of a frame of the example


@dataclass(frozen=True)
class Grid:
    """One temporal grid: its `frames`, uint8 [1 or 2, H, W, 3], at `fps` a second, and whether a chunk `ends` behind it,
    however long the chunk may be."""

    frames: np.ndarray
    fps: float
    ends: bool

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps


@dataclass
class Count:
    """The tokens of all chunks of `chunk_frames` frames with the threshold `drop_static`: how many `tokens` there are, with
    the text between the frames, how many of them are `dropped`, and how many of these belong to the first temporal grid of
    their chunk (`dropped_of_first`, which should be 0). `seconds`: of video."""

    chunk_frames: int
    drop_static: float
    chunks: int = 0
    tokens: int = 0
    dropped: int = 0
    dropped_of_first: int = 0
    seconds: float = 0.0

    def add(self, kept: np.ndarray, tokens: int, seconds: float) -> None:
        """Count one more chunk of `tokens` tokens: `kept` is bool [grids, rows, columns], of its merged patches."""
        self.chunks += 1
        self.tokens += tokens
        self.dropped += int((~kept).sum())
        self.dropped_of_first += int((~kept[0]).sum())
        self.seconds += seconds


@dataclass(frozen=True)
class Example:
    """A chunk with the threshold that it was looked at with. `kept`: a table [grid, row, column, kept] of its merged patches.
    `picture`: the last frame of each temporal grid, one below the other, a JPEG in base64. `chunk`: its number."""

    drop_static: float
    chunk: int
    chunk_frames: int
    kept: pd.DataFrame
    picture: str


def count_kept(
    config, processor, video: Path, fps: float, chunk_frames: Sequence[int], thresholds: Sequence[float]
) -> tuple[pd.DataFrame, Example]:
    """Count the tokens of all of `video`, sampled at `fps` frames per second, for each of `chunk_frames`, which must be even,
    and each of `thresholds`, shares of full scale; 0 keeps all. The frames are as large as the processor's limits allow.
    `config` is the model's.

    Returns a table with the columns of `Count`, and with `dropped_share` (of all tokens) and `tokens_per_s` (kept, for each
    second of video); and an example. This is the chunk, of the size nearest to `EXAMPLE_FRAMES` and at the middle threshold,
    of whose grids most are kept in part. Raises what `VideoChunks` raises.
    """
    per_grid, best = processor.image_processor.temporal_patch_size, (-1, -1)
    example_of = min(chunk_frames, key=lambda count: abs(count - EXAMPLE_FRAMES)), sorted(thresholds)[len(thresholds) // 2]
    counts = {(frames, threshold): Count(frames, threshold) for frames in chunk_frames for threshold in thresholds}
    waiting: dict[int, list[Grid]] = {frames: [] for frames in chunk_frames}
    times: dict[int, float | None] = dict.fromkeys(chunk_frames)
    for grid in read_grids(processor.image_processor, video, fps):
        for frames, grids in waiting.items():
            grids.append(grid)
            if not grid.ends and len(grids) < frames // per_grid:
                continue
            chunk = np.concatenate([grid.frames for grid in grids])
            tokens = count_tokens(config, processor, chunk, times[frames] is None, times[frames], grid.fps)
            times[frames] = next_time(times[frames], len(chunk), grid.fps)
            for threshold, kept in zip(thresholds, _kept(config, processor, chunk, thresholds), strict=True):
                count = counts[frames, threshold]
                if (frames, threshold) == example_of and _partly_kept(kept) > best:
                    best = _partly_kept(kept)
                    example = Example(threshold, count.chunks, frames, _table(kept), _picture(grids))
                count.add(kept, tokens, sum(grid.seconds for grid in grids))
            grids.clear()
    table = pd.DataFrame(asdict(count) for count in counts.values())
    table["dropped_share"] = table["dropped"] / table["tokens"]
    table["tokens_per_s"] = (table["tokens"] - table["dropped"]) / table["seconds"]
    return table, example


def read_grids(settings, video: Path, fps: float) -> Iterator[Grid]:
    """The temporal grids of a video: those of its chunks of any even number of frames. `settings` as in `patchify`."""
    size = settings.temporal_patch_size
    chunks = (chunk for _, chunk in VideoSource(video, size, fps).chunks("what stands still"))
    for chunk, following in pairwise(chain(chunks, [None])):
        yield Grid(chunk.frames, chunk.fps, following is None or len(chunk.frames) < size or _apart(chunk, following))


def _apart(chunk: VideoChunk, following: VideoChunk) -> bool:
    """Whether `VideoChunks` begins a new chunk between the two, however many frames it joins."""
    return chunk.frames.shape[1:] != following.frames.shape[1:] or following.times[0] - chunk.time_s > LONGEST_GAP


def _kept(config, processor, frames: np.ndarray, thresholds: Sequence[float]) -> list[np.ndarray]:
    """For each threshold bool [grids, merged rows, merged columns]: which merged patches of a chunk of `frames` are kept."""
    settings = processor.image_processor
    patches, grid = patchify(torch.from_numpy(frames), settings, "cpu", family_of(config).resize)
    shape = grid[0], grid[1] // settings.merge_size, grid[2] // settings.merge_size
    return [changed_patches(patches, grid, settings, threshold).view(shape).numpy() for threshold in thresholds]


def _partly_kept(kept: np.ndarray) -> tuple[int, int]:
    """How much is kept and dropped of the later grids of a chunk, for comparisons: within its grids, then in all of them."""
    later = kept[1:].reshape(len(kept) - 1, kept[0].size)
    return int((later.sum(1) * (~later).sum(1)).sum()), int(later.sum() * (~later).sum())


def _table(kept: np.ndarray) -> pd.DataFrame:
    """[grid, row, column, kept] of bool [grids, rows, columns]."""
    grid, row, column = np.indices(kept.shape).reshape(3, -1)
    return pd.DataFrame({"grid": grid, "row": row, "column": column, "kept": kept.ravel().astype(int)})


def _picture(grids: Sequence[Grid]) -> str:
    """The frames of the grids, at most `EXAMPLE_WIDTH` pixels wide, one below the other: a JPEG in base64."""
    height, width = grids[0].frames.shape[1:3]
    size = min(width, EXAMPLE_WIDTH), max(1, round(height * min(1, EXAMPLE_WIDTH / width)))
    frames = [np.asarray(Image.fromarray(grid.frames[-1]).resize(size, Image.Resampling.BOX)) for grid in grids]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(frames)).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
