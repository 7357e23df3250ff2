"""The key-value cache: one preallocated buffer per layer, written in place, cut in the middle without moving the window.

A layer keeps its stored tokens in one contiguous stretch `[start, stop)` of a buffer. Appending writes behind `stop`.
Evicting a stretch moves the smaller of the two sides over the gap: for a sink and a window that is the sink, so an eviction
costs O(sink). The free space that collects before `start` is won back by one move to the front when the end is reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from kvlib.ops.attention import attend
from kvlib.ops.positions import apply_rope, rotated, rotation, undo_rope

MOVE_BLOCK = 4096  # tokens of a temporary copy, where a stretch moves by less than its own length
TURNED = 2**22  # numbers of a temporary copy of keys, of as many layers as fit, which are turned at once
EIGHT_BIT = torch.float8_e4m3fn  # the one narrower dtype that keys and values may be stored in
GROWTH = 1.25  # factor by which an unbounded layer grows; layers grow one by one, so the peak is one layer's copy


def fitting(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`states` in `dtype`; what 8 bits cannot hold becomes the largest that they can."""
    if dtype == EIGHT_BIT:
        states = states.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    return states.to(dtype)


@dataclass(frozen=True)
class ChunkSpan:
    """One remembered chunk: its tokens in the cache, its positions [start, stop) now, the `origin` where it started when its
    keys were computed, and the `score` that a policy may have given it."""

    index: int
    tokens: int
    start: int
    stop: int
    origin: int
    score: float = 0.0


class StreamLayer(CacheLayerMixin):
    """Keys and values of one layer; `keys` and `values` are views [1, KV heads, stored tokens, head dim] of the buffer.

    `capacity` is in tokens; a layer that needs more grows. The buffer is made at the first update, on the device of the keys
    that arrive, so layers of a model spread by `device_map` keep their own device. `stored_dtype` None stores keys and values
    in the dtype in which they arrive; narrower ones are read back in it.
    """

    is_sliding = False

    def __init__(self, capacity: int, stored_dtype: torch.dtype | None = None):
        super().__init__()
        self.capacity, self.start, self.stop, self.stored_dtype = capacity, 0, 0, stored_dtype
        self.originals: dict[int, torch.Tensor] = {}  # by chunk: keys as computed, of chunks that have been turned since
        self.rope: tuple[torch.Tensor, torch.Tensor] | None = None  # of all tokens, when keys are stored un-rotated

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (2, *key_states.shape[:2], self.capacity, key_states.shape[-1])
        self.dtype = key_states.dtype
        self._buffer = key_states.new_empty(shape, dtype=self.stored_dtype or self.dtype)
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append [1, KV heads, n, head dim] keys and values; returns everything stored, as views.

        With `rope` set (cos and sin [all tokens, head dim], the new ones last) keys are stored without rotation, and the
        returned keys are a rotated copy; of a narrower `stored_dtype` both are copies.
        """
        new = key_states.shape[-2]
        self.reserve(new)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.rope is not None:
            cos, sin = (part.to(key_states.device) for part in self.rope)
            key_states = undo_rope(key_states, cos[-new:], sin[-new:])
        for buffer, states in zip(self.buffers(), (key_states, value_states), strict=True):
            buffer[:, :, self.stop : self.stop + new] = fitting(states, buffer.dtype)
        self._set(self.start, self.stop + new)
        keys, values = self.keys.to(self.dtype), self.values.to(self.dtype)
        return (keys if self.rope is None else apply_rope(keys, cos, sin)), values

    def attend(self, q: torch.Tensor, key_states: torch.Tensor, value_states: torch.Tensor) -> torch.Tensor:
        """Append as `update` does; attention of the new tokens' queries [1, heads, n, head dim] over everything stored."""
        return attend(q, *self.update(key_states, value_states))

    def reserve(self, new: int) -> None:
        """Make room for `new` more tokens: move to the front of the buffer, or grow it. Stored values do not change."""
        if not self.is_initialized:
            self.capacity = max(self.capacity, new)
        if self.stop + new <= self.capacity:
            return
        stored = self.get_seq_length()
        if stored + new <= self.capacity:
            self._move(self.start, 0, stored)
        else:
            self._grow(max(stored + new, int(self.capacity * GROWTH)))
        self._set(0, stored)

    def evict_range(self, first: int, last: int) -> None:
        """Forget stored tokens `first` to `last` (exclusive); what stands on either side becomes adjacent."""
        gap, tail = last - first, self.get_seq_length() - last
        if first <= tail:
            self._move(self.start, self.start + gap, first)
            self._set(self.start + gap, self.stop)
        else:
            self._move(self.start + last, self.start + first, tail)
            self._set(self.start, self.stop - gap)

    def original(self, first: int, chunk: ChunkSpan) -> torch.Tensor:
        """The keys of `chunk`, stored from token `first` on, as they were computed; kept from now on."""
        if chunk.index not in self.originals:
            self.originals[chunk.index] = self.keys[:, :, first : first + chunk.tokens].clone()
        return self.originals[chunk.index].to(self.dtype)

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` stored tokens; nothing is copied."""
        if self.is_initialized:
            self._set(self.start, self.start + length)

    def get_seq_length(self) -> int:
        return self.stop - self.start

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def nbytes(self) -> int:
        """Bytes of device memory that the layer holds: the whole buffers, filled or not, and the originals of turned keys."""
        held = (self._buffer, *self.originals.values()) if self.is_initialized else ()
        return sum(tensor.nbytes for tensor in held)

    def buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole buffers of keys and values [1, KV heads, capacity, head dim]; tokens `start` to `stop` are stored."""
        return self._buffer[0], self._buffer[1]

    def reset(self) -> None:
        self.originals = {}
        self._set(0, 0)

    def _set(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        if self.is_initialized:
            self.keys, self.values = self._buffer[..., start:stop, :]

    def _move(self, source: int, target: int, length: int) -> None:
        """Copy `length` tokens inside the buffer, stretches may overlap: block by block, from the side that is safe."""
        distance = abs(target - source)
        block = max(distance, MOVE_BLOCK)
        offsets = range(0, length, block)
        for offset in reversed(offsets) if target > source else offsets:
            size = min(block, length - offset)
            moved = self._buffer[..., source + offset : source + offset + size, :]
            self._buffer[..., target + offset : target + offset + size, :] = moved if size <= distance else moved.clone()

    def _grow(self, capacity: int) -> None:
        stored = self._buffer[..., self.start : self.stop, :]
        self._buffer = stored.new_empty((*stored.shape[:3], capacity, stored.shape[-1]))
        self._buffer[..., : stored.shape[-2], :] = stored
        self.capacity = capacity


class StreamCache(Cache):
    """A transformers `Cache` of `StreamLayer`s, all cut and truncated together.

    `capacity` in tokens is what each layer holds before it has to grow, `stored_dtype` as in `StreamLayer`.
    """

    def __init__(self, layers: int, capacity: int, stored_dtype: torch.dtype | None = None):
        super().__init__(layers=[StreamLayer(capacity, stored_dtype) for _ in range(layers)])

    def lengths(self) -> list[int]:
        """Stored tokens of each layer; they differ only while a forward is under way or after it was cut off."""
        return [layer.get_seq_length() for layer in self.layers]

    def nbytes(self) -> int:
        """Bytes of device memory held by all layers."""
        return sum(layer.nbytes() for layer in self.layers)

    def reserve(self, new: int) -> None:
        """Make room for `new` tokens in every layer."""
        for layer in self.layers:
            layer.reserve(new)

    def set_rope(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Store the next keys without rotation; `cos` and `sin` [tokens, head dim] are of all tokens, the next ones last."""
        for layer in self.layers:
            layer.rope = cos, sin

    def evict(self, chunks: Sequence[ChunkSpan], gone: set[int]) -> None:
        """Forget those of the stored `chunks` whose place in the list is in `gone`, in every layer."""
        ends = list(accumulate(chunk.tokens for chunk in chunks))
        for place in sorted(gone, reverse=True):
            for layer in self.layers:
                layer.evict_range(ends[place] - chunks[place].tokens, ends[place])
                layer.originals.pop(chunks[place].index, None)

    def turn(self, chunks: Sequence[ChunkSpan], starts: Sequence[int], inverse_frequencies: torch.Tensor) -> None:
        """Turn the keys of the stored `chunks` to new `starts`, in every layer; chunks that stay where they are are not
        touched."""
        first = 0
        for chunk, start in zip(chunks, starts, strict=True):
            if start != chunk.start:
                turn_keys(self.layers, first, chunk, *rotation(start - chunk.origin, inverse_frequencies))
            first += chunk.tokens


def turn_keys(layers: Sequence[StreamLayer], first: int, chunk: ChunkSpan, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn the keys of `chunk`, stored in `layers` from token `first` on, by the angles of `cos` and `sin` from how they were
    computed: always from the original keys, so that nothing drifts however often it happens."""
    for device, neighbours in groupby(layers, lambda layer: layer.keys.device):
        neighbours = list(neighbours)
        many = max(1, TURNED // neighbours[0].keys[:, :, first : first + chunk.tokens].numel())
        for begin in range(0, len(neighbours), many):
            part = neighbours[begin : begin + many]
            originals = torch.stack([layer.original(first, chunk) for layer in part])
            for layer, keys in zip(part, rotated(originals, cos.to(device), sin.to(device)), strict=True):
                layer.keys[:, :, first : first + chunk.tokens] = fitting(keys, layer.keys.dtype)
