"""From the frames of a chunk to the embeddings that the language model takes."""

import math
from dataclasses import dataclass
from numbers import Real

import torch

from kvlib.ops.fused import device_of
from kvlib.ops.pixels import changed_patches, grid_of, patchify
from kvlib.ops.positions import chunk_positions
from kvlib.prompts import tokens_after_frames, tokens_before_frames
from kvlib.video import stack_frames

MAX_EXTENT = 2**17  # positions that a chunk may span: about 18 hours of video
MAX_FPS = 1000.0


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk after the vision tower: embeddings [1, tokens, hidden], and what `chunk_positions` needs to know of it.

    kept: bool [temporal grids, rows, columns] of merged patches, on the CPU: whether each has a token here. The others were
    dropped, see `encode_chunk`. duration: the seconds between the first frame of this chunk and that of the next, and
    `interval` those between two frames.
    """

    first: bool
    embeddings: torch.Tensor
    before: int
    kept: torch.Tensor
    after: int
    time_step: float
    duration: float
    interval: float

    def positions(self, start: int) -> tuple[torch.Tensor, int]:
        """Positions int64 [3, tokens] from `start` on, and the one after them: as if nothing were dropped."""
        positions, following = chunk_positions(self.before, tuple(self.kept.shape), self.after, start, self.time_step)
        before, after = (torch.ones(count, dtype=torch.bool) for count in (self.before, self.after))
        return positions[:, torch.cat([before, self.kept.flatten(), after])], following

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
            return self.duration - self.interval if previous is None else previous + self.duration
        if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
            raise ValueError(f"time_s={given!r}: give the time of the last frame in seconds, or None to count it")
        return float(given)


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
    settings = processor.image_processor
    time_step = model.config.vision_config.tokens_per_second * settings.temporal_patch_size / fps
    frames = stack_frames(frames)
    if time_step * len(frames) > MAX_EXTENT:
        raise ValueError(f"fps={fps!r}: {len(frames)} frames would span over {MAX_EXTENT} positions; give the true rate")
    patches, grid = patchify(frames, settings, device)
    embed = model.get_input_embeddings()
    before, after = (torch.tensor([ids], device=device_of(embed)) for ids in chunk_turn(processor.tokenizer, first))
    kept = torch.ones(grid[0], grid[1] // settings.merge_size, grid[2] // settings.merge_size, dtype=torch.bool)
    if drop_static:  # the host waits for the device before the tower's work begins, not after it
        kept = changed_patches(patches, grid, settings, drop_static).view(kept.shape).cpu()
    features = backbone.vision(patches, grid)
    if not kept.all():
        features = features[kept.flatten().nonzero()[:, 0].to(features.device)]
    head, tail = embed(before), embed(after)
    block = features[None].to(head.device, head.dtype)
    embeddings = torch.cat([head, block, tail], dim=1)
    parts = before.shape[1], kept, after.shape[1]
    return EncodedChunk(first, embeddings, *parts, time_step, len(frames) / float(fps), 1 / float(fps))


def check_drop_static(drop_static: float) -> float:
    """`drop_static` as a float. Raises ValueError for one that cannot be used."""
    if isinstance(drop_static, bool) or not isinstance(drop_static, Real) or not 0 <= drop_static < 1:
        raise ValueError(
            f"drop_static={drop_static!r}: give the mean change of a patch's pixels, as a share of full scale, below which its "
            "token is dropped: from 0 (keep all) to below 1; 0.03 is a start"
        )
    return float(drop_static)


def chunk_turn(tokenizer, first: bool) -> tuple[list[int], list[int]]:
    """Token ids before and after the frames of a chunk; the `first` of a stream begins with the system turn."""
    return tokens_before_frames(tokenizer, first), tokens_after_frames(tokenizer)


def count_tokens(processor, frames, first: bool) -> int:
    """Tokens of a chunk of these frames, none dropped; the `first` of a stream has the system turn too."""
    settings = processor.image_processor
    t, h, w = grid_of(stack_frames(frames), settings)
    return t * h * w // settings.merge_size**2 + sum(map(len, chunk_turn(processor.tokenizer, first)))
