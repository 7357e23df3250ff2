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

from kvlib.lab.video.source import VideoSource
from kvlib.ops.pixels import changed_patches, patchify
from kvlib.prompts import chunk_texts
from kvlib.video import VideoChunk
from kvlib.video.chunks import LONGEST_GAP

EXAMPLE_FRAMES = 8  # the example is a chunk of about so many frames
EXAMPLE_WIDTH = 240  # pixels at most of a frame of the example


@dataclass(frozen=True)
class Grid:
    """One temporal grid: its pixel `patches` and its size `rows` x `columns` in patches, both as of `patchify`; its last
    `frame`, uint8 [H, W, 3]; its seconds of video; and whether a chunk `ends` behind it, however long the chunk may be."""

    patches: torch.Tensor
    rows: int
    columns: int
    frame: np.ndarray
    seconds: float
    ends: bool


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

    def add(self, kept: np.ndarray, text: int, grids: Sequence[Grid]) -> None:
        """Count one more chunk: bool [grids, rows, columns] of its merged patches, and `text` tokens around them."""
        self.chunks += 1
        self.tokens += kept.size + text
        self.dropped += int((~kept).sum())
        self.dropped_of_first += int((~kept[0]).sum())
        self.seconds += sum(grid.seconds for grid in grids)


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
    processor, video: Path, fps: float, chunk_frames: Sequence[int], thresholds: Sequence[float]
) -> tuple[pd.DataFrame, Example]:
    """Count the tokens of all of `video`, sampled at `fps` frames per second, for each of `chunk_frames`, which must be even,
    and each of `thresholds`, shares of full scale; 0 keeps all. The frames are as large as the processor's limits allow.

    Returns a table with the columns of `Count`, and with `dropped_share` (of all tokens) and `tokens_per_s` (kept, for each
    second of video); and an example. This is the chunk, of the size nearest to `EXAMPLE_FRAMES` and at the middle threshold,
    of whose grids most are kept in part. Raises what `VideoChunks` raises.
    """
    settings, best = processor.image_processor, (-1, -1)
    example_of = min(chunk_frames, key=lambda count: abs(count - EXAMPLE_FRAMES)), sorted(thresholds)[len(thresholds) // 2]
    counts = {(frames, threshold): Count(frames, threshold) for frames in chunk_frames for threshold in thresholds}
    text = {first: sum(map(len, chunk_texts(processor.tokenizer, first))) for first in (False, True)}
    waiting: dict[int, list[Grid]] = {frames: [] for frames in chunk_frames}
    for grid in read_grids(settings, video, fps):
        for frames, grids in waiting.items():
            grids.append(grid)
            if not grid.ends and len(grids) < frames // settings.temporal_patch_size:
                continue
            patches = torch.cat([grid.patches for grid in grids])
            for threshold in thresholds:
                count, kept = counts[frames, threshold], _kept(patches, grids, settings, threshold)
                if (frames, threshold) == example_of and _partly_kept(kept) > best:
                    best = _partly_kept(kept)
                    example = Example(threshold, count.chunks, frames, _table(kept), _picture(grids))
                count.add(kept, text[count.chunks == 0], grids)
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
        patches, (_, rows, columns) = patchify(torch.from_numpy(chunk.frames), settings, "cpu")
        ends = following is None or len(chunk.frames) < size or _apart(chunk, following)
        yield Grid(patches, rows, columns, chunk.frames[-1], len(chunk.frames) / chunk.fps, ends)


def _apart(chunk: VideoChunk, following: VideoChunk) -> bool:
    """Whether `VideoChunks` begins a new chunk between the two, however many frames it joins."""
    return chunk.frames.shape[1:] != following.frames.shape[1:] or following.times[0] - chunk.time_s > LONGEST_GAP


def _kept(patches: torch.Tensor, grids: Sequence[Grid], settings, threshold: float) -> np.ndarray:
    """bool [grids, merged rows, merged columns]: which merged patches of a chunk are kept. `patches`: of all its grids."""
    rows, columns = grids[0].rows, grids[0].columns
    new = changed_patches(patches, (len(grids), rows, columns), settings, threshold)
    return new.view(len(grids), rows // settings.merge_size, columns // settings.merge_size).numpy()


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
    height, width = grids[0].frame.shape[:2]
    size = min(width, EXAMPLE_WIDTH), max(1, round(height * min(1, EXAMPLE_WIDTH / width)))
    frames = [np.asarray(Image.fromarray(grid.frame).resize(size, Image.Resampling.BOX)) for grid in grids]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(frames)).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
