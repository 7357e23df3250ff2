"""From the frames of a chunk to the embeddings that the language model takes."""

import math
from dataclasses import dataclass
from numbers import Real

import torch

from kvlib.ops.fused import device_of
from kvlib.ops.pixels import grid_of, patchify
from kvlib.ops.positions import chunk_positions
from kvlib.prompts import tokens_after_frames, tokens_before_frames
from kvlib.video import stack_frames

MAX_EXTENT = 2**17  # positions that a chunk may span: about 18 hours of video
MAX_FPS = 1000.0


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk after the vision tower: embeddings [1, tokens, hidden], and what `chunk_positions` needs to know of it.

    duration: the seconds between the first frame of this chunk and that of the next, and `interval` those between two frames.
    """

    first: bool
    embeddings: torch.Tensor
    before: int
    grid: tuple[int, int, int]
    after: int
    time_step: float
    duration: float
    interval: float

    def positions(self, start: int) -> tuple[torch.Tensor, int]:
        """Positions int64 [3, tokens] from `start` on, and the one after them."""
        return chunk_positions(self.before, self.grid, self.after, start, self.time_step)

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


def encode_chunk(model, backbone, processor, device: torch.device, frames, fps: float, first: bool) -> EncodedChunk:
    """Put frames, as `VideoStreamingInference.append_video_chunk` takes them, through the vision tower of `model`, whose
    parts on the device are `backbone`.

    Raises ValueError for frames and rates that cannot be used.
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
    merged = (grid[0], grid[1] // settings.merge_size, grid[2] // settings.merge_size)
    features = backbone.vision(patches, grid)
    head, tail = embed(before), embed(after)
    block = features[None].to(head.device, head.dtype)
    embeddings = torch.cat([head, block, tail], dim=1)
    lengths = before.shape[1], merged, after.shape[1]
    return EncodedChunk(first, embeddings, *lengths, time_step, len(frames) / float(fps), 1 / float(fps))


def chunk_turn(tokenizer, first: bool) -> tuple[list[int], list[int]]:
    """Token ids before and after the frames of a chunk; the `first` of a stream begins with the system turn."""
    return tokens_before_frames(tokenizer, first), tokens_after_frames(tokenizer)


def count_tokens(processor, frames, first: bool) -> int:
    """Tokens that a chunk of these frames takes in the cache; the `first` of a stream has the system turn too."""
    settings = processor.image_processor
    t, h, w = grid_of(stack_frames(frames), settings)
    return t * h * w // settings.merge_size**2 + sum(map(len, chunk_turn(processor.tokenizer, first)))
