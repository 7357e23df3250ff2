"""How important a chunk is, from its cached keys and values alone: no question is known when it arrives.

Every scorer takes the cache, the stored chunks with the new one last, and the model's RoPE frequencies [head dim / 2], and
returns a number; higher means keep. All are means over layers, KV heads and tokens, in fp32.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from kvlib.cache import StreamCache
from kvlib.ops.positions import rotate_keys, text_in_front
from kvlib.state import ChunkSpan


def value_norm(cache: StreamCache, chunks: Sequence[ChunkSpan], inverse_frequencies: torch.Tensor) -> float:
    """Mean length of the values: long values weigh more in what attention reads (InfiniPot-V, arXiv:2506.15745)."""
    new = chunks[-1].tokens
    return _mean(layer.values[:, :, -new:].float().norm(dim=-1) for layer in cache.layers)


def key_norm(cache: StreamCache, chunks: Sequence[ChunkSpan], inverse_frequencies: torch.Tensor) -> float:
    """Minus the mean length of the keys: short keys draw the most attention (Devoto et al., arXiv:2406.11430)."""
    new = chunks[-1].tokens
    return _mean(-layer.keys[:, :, -new:].float().norm(dim=-1) for layer in cache.layers)


def temporal_redundancy(cache: StreamCache, chunks: Sequence[ChunkSpan], inverse_frequencies: torch.Tensor) -> float:
    """Minus the cosine between a chunk's keys and those of the same merged patches one chunk earlier (InfiniPot-V,
    arXiv:2506.15745).

    The earlier keys are rotated to the new one's positions first, or RoPE alone would make equal pictures differ. Chunks of
    other lengths are aligned at their ends, where the newest grid is; where tokens were dropped, those are compared that
    both chunks have kept. The first chunk scores 0.
    """
    if len(chunks) < 2:
        return 0.0
    earlier, later = chunks[-2:]
    if earlier.dropped or later.dropped:
        old, new, shift = _kept_in_both(*chunks[-2:], *cache.spread[-2:])
    else:
        same, shift = min(earlier.tokens, later.tokens), later.stop - earlier.stop
        old, new = slice(earlier.tokens - same, None), slice(later.tokens - same, None)

    def redundancy(keys: torch.Tensor) -> torch.Tensor:
        before, now = keys[:, :, -later.tokens - earlier.tokens : -later.tokens], keys[:, :, -later.tokens :]
        before = rotate_keys(before[:, :, old], shift, inverse_frequencies)
        return -cosine_similarity(before.float(), now[:, :, new].float(), -1)

    return _mean(redundancy(layer.keys) for layer in cache.layers)


def surprise(cache: StreamCache, chunks: Sequence[ChunkSpan], inverse_frequencies: torch.Tensor) -> float:
    """One minus the cosine between a chunk's mean value vector and that of all that was remembered when it came.

    Ours: a frame that looks like the memory adds little to it. Values carry no position, so nothing has to be rotated. The
    first chunk scores 1.
    """
    if len(chunks) < 2:
        return 1.0
    new = chunks[-1].tokens
    means = ((layer.values[:, :, :-new].float().mean(-2), layer.values[:, :, -new:].float().mean(-2)) for layer in cache.layers)
    return 1 - _mean(cosine_similarity(old, new, -1) for old, new in means)


def chance(cache: StreamCache, chunks: Sequence[ChunkSpan], inverse_frequencies: torch.Tensor) -> float:
    """The control: a number drawn by the chunk's index."""
    return random.Random(chunks[-1].index).random()


SCORERS = {
    "value_norm": value_norm,
    "key_norm": key_norm,
    "temporal_redundancy": temporal_redundancy,
    "surprise": surprise,
    "random": chance,
}


def _kept_in_both(
    earlier: ChunkSpan, later: ChunkSpan, earlier_spread: torch.Tensor, later_spread: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The tokens of two chunks that stand at equal positions counted from their frames: int64 [n] of each, and the distance of
    their positions. The first temporal grid, which is whole, is among them."""
    fronts = text_in_front(earlier_spread), text_in_front(later_spread)
    limit = 2 + max(int(spread.max()) for spread in (earlier_spread, later_spread))  # of a position on any axis
    codes = (
        np.ravel_multi_index((spread - front + limit).numpy(), (2 * limit,) * 3)
        for spread, front in zip((earlier_spread, later_spread), fronts, strict=True)
    )
    _, old, new = np.intersect1d(*codes, return_indices=True)
    shift = later.start + fronts[1] - earlier.start - fronts[0]
    return torch.from_numpy(old), torch.from_numpy(new), shift


def _mean(per_layer) -> float:
    means = [values.mean() for values in per_layer]
    return torch.stack([mean.to(means[0].device) for mean in means]).mean().item()  # one wait for the device, not one a layer
