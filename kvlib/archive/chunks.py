"""A chunk outside the stream: its keys and values as they were computed, and what is needed to find and to place it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

import torch

from kvlib.ops.positions import rotary_tables, rotated, rotation, undo_rope
from kvlib.ops.storage import EIGHT_BIT
from kvlib.state import ChunkSpan, StreamState
from kvlib.steps import ROTATED_AT_ONCE

BLOCK = 640  # most tokens that share a mean and a variance: five blocks for a temporal grid of 1080p


@dataclass(frozen=True, eq=False)
class ArchivedChunk:
    """A chunk that recall can bring back.

    `span` is the chunk as it was when it was stored. `spread` has the positions of its tokens less its start, int64 [3,
    tokens]. `load()` gives its states on the CPU, [layers, 2 (keys, values), KV heads, tokens, head dim]: keys are rotated to
    `span.origin`, or not at all in the position mode "unrotated". `nbytes`: of the states."""

    span: ChunkSpan
    nbytes: int
    spread: torch.Tensor = field(repr=False)
    load: Callable[[], torch.Tensor] = field(repr=False)


def computed_states(state: StreamState, place: int) -> tuple[torch.Tensor, ...]:
    """Copies of the keys and values of the chunk at `place` as they were computed, before any re-rotation: [layers, 2, KV
    heads, tokens, head dim] for each run of layers on one device."""
    chunk, first = state.chunks[place], state.offsets()[place]
    runs = [list(run) for _, run in groupby(state.buffers, lambda buffer: buffer.device)]
    parts = tuple(torch.stack([buffer[:, 0, :, first : first + chunk.tokens] for buffer in run]) for run in runs)
    if chunk.index in state.originals:  # the buffers have its keys re-rotated
        for part, keys in zip(parts, state.originals[chunk.index], strict=True):
            part[:, 0] = keys[:, 0]
    return parts


class KeyStatistics:
    """Computes the mean and the variance of the keys without rotation, of every block of a chunk.

    One vector of each for each temporal grid is needed to find a scene within a chunk; large grids are divided into blocks of
    rows of at most `BLOCK` tokens. rotary: the model's rotary embedding; rotated: whether stored keys are. What depends on the
    layout of a chunk alone is kept on the devices, since most chunks have the layout of the last one: nothing waits for a copy
    there.
    """

    def __init__(self, rotary, rotated: bool):
        self.rotary, self.rotated = rotary, rotated
        self._layout: tuple[torch.Tensor, dict] = torch.empty(0), {}

    def __call__(self, parts: tuple[torch.Tensor, ...], span: ChunkSpan, spread: torch.Tensor) -> torch.Tensor:
        """[vectors, 2 (mean, variance), layers, KV heads, head dim] of a chunk's `parts`, as `computed_states` gives them;
        `spread`: the positions of its tokens less its start, int64 [3, tokens]. In the dtype of the states, bf16 for 8-bit
        ones."""
        moments = []
        for part in parts:
            average, cos, sin = self._on_device(spread, part.device)
            for states in part.split(max(1, ROTATED_AT_ONCE // part[0, 0].numel())):
                keys = states[:, 0].float()
                moments.append(_moments(average, undo_rope(keys, cos, sin) if self.rotated else keys))
        device = moments[0][0].device
        mean, variance, covariance = (torch.cat([one.to(device) for one in each]) for each in zip(*moments, strict=True))
        if self.rotated:  # so far by the positions within the chunk; now by its origin, which all its tokens share
            angles = rotation(-span.origin, self.rotary.inv_freq.to(device))
            mean, variance = rotated(mean, *angles), _rotated_variance(variance, covariance, *angles)
        made = torch.stack([mean, variance]).permute(3, 0, 1, 2, 4)
        return made.to(torch.bfloat16 if parts[0].dtype == EIGHT_BIT else parts[0].dtype)

    def _on_device(self, spread: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The matrix that averages over blocks, fp32 [blocks, tokens], and the cosine and sine of the positions in `spread`."""
        if not torch.equal(self._layout[0], spread):
            self._layout = spread, {}
        known = self._layout[1]
        if device not in known:
            blocks = key_blocks(spread)
            average = torch.zeros(len(blocks), spread.shape[1])
            for row, block in zip(average, blocks, strict=True):
                row[block] = 1 / (block.stop - block.start)
            tables = rotary_tables(self.rotary, spread.to(device), torch.float32, scaled=False)
            known[device] = average.to(device), *(table[0] for table in tables)
        return known[device]


def _moments(average: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of keys [..., tokens, head dim] in every block: mean and variance of each number, [..., blocks, head dim], and the
    covariance of the two numbers that RoPE rotates together, [..., blocks, head dim / 2]. average: of `_on_device`.

    The mean is subtracted first: some numbers of a key lie hundreds of standard deviations from 0 (the biases of Qwen2.5), and
    the difference of two means of squares would be lost to rounding.
    """
    mean = average @ keys
    low, high = (centred := keys - average.sign().T @ mean).chunk(2, -1)
    return mean, average @ centred.square(), average @ (low * high)


def _rotated_variance(variance: torch.Tensor, covariance: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The variance of `_moments` as it would be of keys rotated by the angles of `rotation`."""
    low, high = variance.chunk(2, -1)
    shift = 2 * sin * cos * covariance
    return torch.cat([low * cos**2 - shift + high * sin**2, high * cos**2 + shift + low * sin**2], -1)


def key_blocks(spread: torch.Tensor) -> list[slice]:
    """The stretches of a chunk's tokens of which `KeyStatistics` computes a mean and a variance each: those with one temporal
    position, divided when they are long.

    Text advances its positions on all axes with every token, so that it forms no stretch. Without any stretch the whole chunk
    is one."""
    _, lengths = torch.unique_consecutive(spread[0], return_counts=True)
    text = (spread == spread[0]).all(0).tolist()
    blocks, first = [], 0
    for length in lengths.tolist():
        if length > 1 or (blocks and not text[first]):  # only one token of a later grid may have been kept
            count = -(-length // BLOCK)
            edges = [first + length * i // count for i in range(count + 1)]
            blocks += [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
        first += length
    return blocks or [slice(0, spread.shape[1])]
