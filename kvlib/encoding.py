"""From the frames of a chunk to the embeddings that the language model takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
import torch.nn.functional as F

from kvlib.families import family_of
from kvlib.ops.fused import device_of
from kvlib.ops.pixels import changed_patches, grid_of, patchify
from kvlib.ops.positions import chunk_positions, stamped_positions
from kvlib.prompts import chunk_texts
from kvlib.video import stack_frames

MAX_EXTENT = 2**17  # positions that a chunk may span: about 18 hours of video
MAX_FPS = 1000.0


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk after the vision tower. Its texts are not in it: with some families they say its time.

    first: whether it is a stream's first. features: [parts, kept, width], as of `VisionTower`, of the merged patches that are
    kept. kept: bool [temporal grids, rows, columns] of merged patches, on the CPU: the others were dropped, see `encode_chunk`.
    frames: their number, sampled at `fps` frames per second. time_step: as of `video_positions`.
    """

    first: bool
    features: torch.Tensor
    kept: torch.Tensor
    frames: int
    fps: float
    time_step: float

    @property
    def dropped(self) -> int:
        """Tokens that were dropped."""
        return int((~self.kept).sum())

    def time(self, previous: float | None, given: float | None) -> float:
        """The time in seconds of the last frame: the `given` one, else counted on from the `previous` chunk's (None: there is
        none).

        Raises ValueError for a given one that is no finite number.
        """
        if given is None:
            return next_time(previous, self.frames, self.fps)
        if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
            raise ValueError(f"time_s={given!r}: give the time of the last frame in seconds, or None to count it")
        return float(given)


@dataclass(frozen=True)
class ChunkTokens:
    """The tokens of a chunk: embeddings [parts, tokens, width], see `kvlib.ops.language`. texts: numbers of text tokens,
    before the frames and after them; where every temporal grid is `stamped` with its time, before each and after the last."""

    embeddings: torch.Tensor
    texts: tuple[int, ...]
    kept: torch.Tensor
    time_step: float
    stamped: bool

    def positions(self, start: int) -> tuple[torch.Tensor, int]:
        """Positions int64 [3, tokens] from `start` on, and the one after them: as if nothing were dropped."""
        grid = tuple(self.kept.shape)
        if self.stamped:
            positions, following = stamped_positions(self.texts, grid, start)
        else:
            positions, following = chunk_positions(self.texts[0], grid, self.texts[1], start, self.time_step)
        texts = [torch.ones(count, dtype=torch.bool) for count in self.texts]
        blocks = self.kept.flatten(1) if self.stamped else self.kept.flatten()[None]
        return positions[:, torch.cat(alternate(texts, blocks))], following


def alternate(texts: Sequence, blocks: Sequence) -> list:
    """The first text, the first block, the second text and so on; there is one text more."""
    return [part for pair in zip(texts, blocks, strict=False) for part in pair] + [texts[-1]]


def encode_chunk(
    model, backbone, processor, device: torch.device, frames, fps: float, first: bool, drop_static: float
) -> EncodedChunk:
    """Put frames, as `VideoStreamingInference.append_video_chunk` takes them, through the vision tower of `model`, whose
    parts on the device are `backbone`.

    With `drop_static` above 0 the chunk is like a group of pictures of a video codec: its first temporal grid is whole, and of
    the others only the tokens of `changed_patches` are kept. The tower sees all patches, so that the tokens that are kept are
    the same as without dropping. Raises ValueError for frames and rates that cannot be used.
    """
    if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < fps <= MAX_FPS:
        raise ValueError(
            f"fps={fps!r}: give the rate at which the frames were sampled, above 0 and up to {MAX_FPS:g} per second"
        )
    settings, family = processor.image_processor, family_of(model.config)
    time_step = family.time_step(model.config, settings.temporal_patch_size / fps)
    frames = stack_frames(frames)
    if time_step * len(frames) > MAX_EXTENT:
        raise ValueError(f"fps={fps!r}: {len(frames)} frames would span over {MAX_EXTENT} positions; give the true rate")
    patches, grid = patchify(frames, settings, device, family.resize)
    kept = torch.ones(grid[0], grid[1] // settings.merge_size, grid[2] // settings.merge_size, dtype=torch.bool)
    if drop_static:  # the host waits for the device before the tower's work begins, not after it
        kept = changed_patches(patches, grid, settings, drop_static).view(kept.shape).cpu()
    features = backbone.vision(patches, grid)
    if not kept.all():
        features = features[:, kept.flatten().nonzero()[:, 0].to(features.device)]
    return EncodedChunk(first, features, kept, len(frames), float(fps), time_step)


def place_in_turn(model, tokenizer, chunk: EncodedChunk, time_s: float) -> ChunkTokens:
    """The tokens of a chunk whose last frame is shown at `time_s` seconds."""
    family, embed = family_of(model.config), model.get_input_embeddings()
    times = grid_times(chunk.frames, chunk.fps, time_s, len(chunk.kept)) if family.stamped else ()
    texts = chunk_texts(tokenizer, chunk.first, times)
    lengths = tuple(map(len, texts))
    written = embed(torch.tensor([[token for text in texts for token in text]], device=device_of(embed)))
    parts = len(chunk.features) - 1
    written = F.pad(written, (0, 0, 0, 0, 0, parts)) if parts else written  # nothing is added to text
    features = chunk.features.to(written.device, written.dtype)
    pieces = features.split([int(grid.sum()) for grid in chunk.kept] if family.stamped else features.shape[1], dim=1)
    embeddings = torch.cat(alternate(written.split(lengths, dim=1), pieces), dim=1)
    return ChunkTokens(embeddings, lengths, chunk.kept, chunk.time_step, family.stamped)


def next_time(previous: float | None, frames: int, fps: float) -> float:
    """The time in seconds of the last of `frames` frames, sampled at `fps`, that follow a chunk whose last one has the time
    `previous`; None: they are a stream's first."""
    return (frames - 1) / fps if previous is None else previous + frames / fps


def grid_times(frames: int, fps: float, last: float, grids: int) -> list[float]:
    """The times in seconds of the temporal grids of a chunk whose last frame is shown at `last`: the mean of the times of each
    grid's first and last frame, as Qwen3-VL's processor has it."""
    each = -(-frames // grids)
    times = [last - (frames - 1 - number) / fps for number in range(frames)]
    return [(times[at] + times[min(at + each, frames) - 1]) / 2 for at in range(0, frames, each)]


def check_drop_static(drop_static: float) -> float:
    """`drop_static` as a float. Raises ValueError for one that cannot be used."""
    if isinstance(drop_static, bool) or not isinstance(drop_static, Real) or not 0 <= drop_static < 1:
        raise ValueError(
            f"drop_static={drop_static!r}: give the mean change of a patch's pixels, as a share of full scale, below which its "
            "token is dropped: from 0 (keep all) to below 1; 0.03 is a start"
        )
    return float(drop_static)


def count_tokens(config, processor, frames, first: bool, previous: float | None = None, fps: float = 2.0) -> int:
    """Tokens of a chunk of these frames, none dropped; the `first` of a stream has the system turn too.

    Where a chunk says its time, it is the one after a chunk with the time `previous`: longer times have more tokens.
    """
    settings, family, frames = processor.image_processor, family_of(config), stack_frames(frames)
    t, h, w = grid_of(frames, settings, family.resize)
    times = grid_times(len(frames), fps, next_time(previous, len(frames), fps), t) if family.stamped else ()
    return t * h * w // settings.merge_size**2 + sum(map(len, chunk_texts(processor.tokenizer, first, times)))
