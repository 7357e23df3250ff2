"""From one state of a stream to the next: chunks go, the others move together, keys are re-rotated.

The functions compute the new state and write to no buffer. What has to be copied inside the buffers becomes a step of the new
state's `pending`. Every step can be run twice with the same result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from kvlib.ops.positions import rotated, rotation
from kvlib.ops.storage import EIGHT_BIT, saturating_cast
from kvlib.state import StreamState

MOVE_BLOCK = 4096  # tokens that are copied at once, by way of a temporary copy, where a stretch moves by less than that
ROTATED_AT_ONCE = 2**22  # numbers of the keys that are rotated together, of as many layers as fit


@dataclass(frozen=True)
class Move:
    """A pending step: copy `length` tokens of every layer from offset `source` to `target`, which do not overlap."""

    source: int
    target: int
    length: int

    def run(self, state: StreamState) -> None:
        for buffer in state.buffers:
            numbers = buffer.view(torch.int64)  # wide numbers are copied faster
            moved = numbers[..., self.source : self.source + self.length, :]
            numbers[..., self.target : self.target + self.length, :] = moved


@dataclass(frozen=True)
class OverlappingMove:
    """A pending step: as `Move`, of one `layer`, to a target that overlaps the source. It is done by way of a copy, which
    becomes
    part of the state before the target is written: a second run would read what the first has overwritten."""

    layer: int
    source: int
    target: int
    length: int

    def run(self, state: StreamState) -> "Write":
        moved = state.buffers[self.layer][..., self.source : self.source + self.length, :]
        return Write(self.layer, self.target, moved.clone())


@dataclass(frozen=True)
class Write:
    """A pending step: write `states` [2, 1, KV heads, n, head dim] to offset `target` of one `layer`."""

    layer: int
    target: int
    states: torch.Tensor

    def run(self, state: StreamState) -> None:
        state.buffers[self.layer][..., self.target : self.target + self.states.shape[-2], :] = self.states


@dataclass(frozen=True)
class Rerotation:
    """A pending step: write the keys of a chunk, at offset `target`, rotated by `shift` positions from how they were computed:
    always from the original keys, so that nothing drifts however often it happens. cos, sin: of `rotation(shift)`."""

    index: int
    target: int
    tokens: int
    cos: torch.Tensor
    sin: torch.Tensor

    def run(self, state: StreamState) -> None:
        layer = 0
        for originals in state.originals[self.index]:
            cos, sin = self.cos.to(originals.device), self.sin.to(originals.device)
            for part in originals.split(max(1, ROTATED_AT_ONCE // originals[0].numel())):
                for keys in rerotated_keys(part, cos, sin):
                    stored = state.buffers[layer][0]
                    stored[:, :, self.target : self.target + self.tokens] = saturating_cast(keys, stored.dtype)
                    layer += 1


def rerotated_keys(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys [..., n, head dim] rotated by the angles of `rotation`, in their dtype; 8-bit ones in fp32, to be rounded once."""
    return rotated(keys.float() if keys.dtype == EIGHT_BIT else keys, cos, sin)


def key_copies(buffers: Sequence[torch.Tensor], first: int, tokens: int) -> tuple[torch.Tensor, ...]:
    """Copies of the keys at offset `first`: [layers, 1, KV heads, tokens, head dim] for each run of layers on one device."""
    by_device = groupby(buffers, lambda buffer: buffer.device)
    return tuple(torch.stack([buffer[0][:, :, first : first + tokens] for buffer in layers]) for _, layers in by_device)


def moves(source: int, target: int, length: int, layers: int) -> Iterator[Move | OverlappingMove]:
    """The steps that move `length` tokens from offset `source` to `target`, block by block from the side that is safe."""
    distance = abs(target - source)
    block = max(distance, MOVE_BLOCK)
    offsets = range(0, length, block)
    for offset in reversed(offsets) if target > source else offsets:
        stretch = source + offset, target + offset, min(block, length - offset)
        if stretch[2] <= distance:
            yield Move(*stretch)
        else:
            yield from (OverlappingMove(layer, *stretch) for layer in range(layers))


def closed(state: StreamState, gone: set[int]) -> StreamState:
    """The state without the chunks whose places in the list are in `gone`: the sides of each gap become adjacent."""
    start, stop, steps, first = state.start, state.stop, [], state.stop - state.start
    for place in reversed(range(len(state.chunks))):
        last, first = first, first - state.chunks[place].tokens
        if place not in gone:
            continue
        gap, behind = last - first, stop - start - last
        if first <= behind:
            steps += moves(start, start + gap, first, len(state.buffers))
            start += gap
        else:
            steps += moves(start + last, start + first, behind, len(state.buffers))
            stop -= gap
    kept = tuple(chunk for place, chunk in enumerate(state.chunks) if place not in gone)
    spread = tuple(part for place, part in enumerate(state.spread) if place not in gone)
    originals = {chunk.index: state.originals[chunk.index] for chunk in kept if chunk.index in state.originals}
    pending = (*state.pending, *steps)
    return replace(state, start=start, stop=stop, chunks=kept, spread=spread, originals=originals, pending=pending)


def rerotated(state: StreamState, before: StreamState, starts: Sequence[int], inverse_frequencies: torch.Tensor) -> StreamState:
    """The state with the keys of its chunks rotated to new `starts`; chunks that stay where they are are not touched.

    `before`: the state whose chunks lie in the buffers now; copies of keys that have none yet are taken from there.
    """
    offsets = {chunk.index: offset for chunk, offset in zip(before.chunks, before.offsets(), strict=True)}
    originals, steps = dict(state.originals), []
    for chunk, start, target in zip(state.chunks, starts, state.offsets(), strict=True):
        if start == chunk.start:
            continue
        if chunk.index not in originals:
            originals[chunk.index] = key_copies(before.buffers, offsets[chunk.index], chunk.tokens)
        angles = rotation(start - chunk.origin, inverse_frequencies)
        steps.append(Rerotation(chunk.index, target, chunk.tokens, *angles))
    return replace(state, originals=originals, pending=(*state.pending, *steps))


def placed(state: StreamState, starts: Sequence[int]) -> StreamState:
    """The record of `state` with its chunks at new `starts`, and the next position behind the last."""
    pairs = zip(state.chunks, starts, strict=True)
    chunks = tuple(c if s == c.start else replace(c, start=s, stop=s + c.stop - c.start) for c, s in pairs)
    return replace(state, chunks=chunks, next_position=chunks[-1].stop)
