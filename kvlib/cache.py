"""The key-value cache: one preallocated buffer per layer, written in place, cut in the middle without moving the window.

The stored tokens of all layers lie in one contiguous stretch of the buffers, whose bounds are part of the stream's state. New
tokens are written behind it, through a `Tail`, and become part of the stream when a new state says so. Evicting a stretch moves
the smaller of its two sides over the gap: for a sink and a window that is the sink, so an eviction costs O(sink). The free
space that collects before the stretch is won back by one move to the front when the end of the buffers is reached.
"""

from dataclasses import replace

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from kvlib.ops.attention import chunk_attention
from kvlib.ops.positions import apply_rope, undo_rope
from kvlib.ops.storage import saturating_cast
from kvlib.state import Current, StreamState
from kvlib.steps import moves

GROWTH = 1.25  # factor by which the buffers of a stream without a budget grow, one after the other: the peak is one copy


class StreamLayer(CacheLayerMixin):
    """One layer of what a stream stores (`Current`) or of a `Tail`, its `view`: `keys` and `values` are views of the buffer,
    [1, KV heads, tokens, head dim], None before the first chunk."""

    is_sliding = False

    def __init__(self, view, index: int):
        self.view, self.index = view, index

    @property
    def keys(self) -> torch.Tensor | None:
        return self._stored(0)

    @property
    def values(self) -> torch.Tensor | None:
        return self._stored(1)

    @property
    def is_initialized(self) -> bool:
        return self.view.buffers[self.index] is not None

    @property
    def originals(self) -> dict[int, torch.Tensor]:
        """By chunk number: the keys [1, KV heads, n, head dim] as computed, of chunks that have been re-rotated."""
        return {index: list(torch.cat(parts))[self.index] for index, parts in self.view.originals.items()}

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the buffer, on the device of the keys that arrive, so that layers spread over devices keep their own."""
        shape = (2, *key_states.shape[:2], self.view.capacity, key_states.shape[-1])
        self.view.buffers[self.index] = key_states.new_empty(shape, dtype=self.view.stored_dtype or key_states.dtype)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write [1, KV heads, n, head dim] keys and values to a `Tail`; returns those of all tokens, in the same dtype.

        With `rope` of the tail set (cos and sin [all tokens, head dim], the new ones last) keys are stored without rotation,
        and the returned keys are a rotated copy; of a narrower dtype both are copies. Raises TypeError for a `StreamCache`.
        """
        if not isinstance(self.view, Tail):
            raise TypeError("a stream's cache is not written to directly: use VideoStreamingInference or KVCacheManager.tail()")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        buffer, first, dtype = self.view.buffers[self.index], self.view.stop, key_states.dtype
        self.view.new = new = key_states.shape[-2]
        if self.view.rope is not None:
            cos, sin = (part.to(key_states.device) for part in self.view.rope)
            key_states = undo_rope(key_states, cos[-new:], sin[-new:])
        for part, states in enumerate((key_states, value_states)):
            buffer[part, :, :, first : first + new] = saturating_cast(states, buffer.dtype)
        keys, values = (part[:, :, self.view.start : first + new].to(dtype) for part in buffer)
        return (keys if self.view.rope is None else apply_rope(keys, cos, sin)), values

    def append_and_attend(self, q: torch.Tensor, key_states: torch.Tensor, value_states: torch.Tensor, on_queries=None):
        """Append as `update` does; attention of the new tokens' queries [1, heads, n, head dim] over all tokens.

        `on_queries(q, keys)` is called with the queries and all the keys that they are compared with."""
        keys, values = self.update(key_states, value_states)
        if on_queries is not None:
            on_queries(q, keys)
        return chunk_attention(q, keys, values)

    def get_seq_length(self) -> int:
        return self.view.stop - self.view.start

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def _stored(self, part: int) -> torch.Tensor | None:
        buffer = self.view.buffers[self.index]
        return None if buffer is None else buffer[part][:, :, self.view.start : self.view.stop + self.view.new]


class Tail:
    """Tokens that are written behind the stored ones: a chunk on its way in, or a question and its answer.

    `layers` take keys and values as a transformers cache does; after each forward, `advance` counts its tokens. Nothing of a
    tail is part of the stream: a tail that is dropped has never been. `tokens` have been written, the next stands at
    `next_position`. The first `hidden` of the stored tokens are not seen from the tail. `spread`: as that of the state, with
    a new chunk's last, while a policy scores it.
    """

    new = 0  # tokens of the forward under way, which a layer has written already

    def __init__(self, state: StreamState, stored_dtype: torch.dtype | None):
        self.stored_dtype, self.capacity = stored_dtype, state.capacity
        self.next_position, self.tokens = state.next_position, 0
        self.rope: tuple[torch.Tensor, torch.Tensor] | None = None  # of all tokens, when keys are stored without rotation
        self.hidden, self.spread = 0, state.spread
        self.follow(state)

    @property
    def layers(self) -> list["StreamLayer"]:
        """The layers to write to. They are not kept: they refer to the tail, and a cycle would keep its buffers alive."""
        return [StreamLayer(self, index) for index in range(len(self.buffers))]

    def follow(self, state: StreamState) -> None:
        """Go with the stored tokens when they have moved, or have got other buffers."""
        self.buffers, self.room = list(state.buffers), state.room()
        self.start, self.stop = state.start + self.hidden, state.stop + self.tokens

    def hide(self, tokens: int) -> None:
        """Leave the first `tokens` of the stored ones out of what the next forward sees."""
        self.start, self.hidden = self.start + tokens, self.hidden + tokens

    def advance(self, tokens: int, next_position: int) -> None:
        """Count `tokens` that all layers have written; the next one stands at `next_position`."""
        self.tokens, self.stop, self.new, self.next_position = self.tokens + tokens, self.stop + tokens, 0, next_position


class StreamCache(Cache):
    """A transformers `Cache` that shows what a stream stores. `stored_dtype` None stores keys and values as they arrive."""

    def __init__(self, layers: int, current: Current, stored_dtype: torch.dtype | None = None):
        super().__init__(layers=[StreamLayer(current, index) for index in range(layers)])
        self.current, self.stored_dtype = current, stored_dtype

    def lengths(self) -> list[int]:
        """Stored tokens of each layer: the same for all."""
        return [layer.get_seq_length() for layer in self.layers]

    def nbytes(self) -> int:
        """Bytes of device memory that are held: the whole buffers, filled or not, and the originals of re-rotated keys."""
        return self.current.state.nbytes()

    def reserve(self, new: int, tail: Tail | None = None) -> None:
        """Make room for `new` more tokens behind the stored ones, or behind those of `tail`, which follows: by a move to the
        front of the buffers, or by longer buffers. Those of a tail are given back by `trim`."""
        self.current.settle()
        state, behind = self.current.state, tail.tokens if tail else 0
        room, needed = state.room(), state.stored + behind + new
        if state.start + needed > room:
            if state.start:
                self._move_to_front(behind)
            if needed > room and tail is None:
                self.current.state = replace(self.current.state, capacity=max(needed, int(state.capacity * GROWTH)))
            if needed > room:
                self._resize(needed if tail else self.current.state.capacity, behind)
        if tail:
            tail.follow(self.current.state)

    def trim(self) -> None:
        """Give back what buffers are longer than the stream needs."""
        self.current.settle()
        state = self.current.state
        if state.room(max) > state.capacity:
            if state.stop > state.capacity:
                self._move_to_front(0)
            self._resize(state.capacity, 0)

    def _move_to_front(self, behind: int) -> None:
        state = self.current.state
        steps = tuple(moves(state.start, 0, state.stored + behind, len(state.buffers)))
        self.current.state = replace(state, start=0, stop=state.stored, pending=steps)
        self.current.settle()

    def _resize(self, capacity: int, behind: int) -> None:
        """Give every buffer `capacity` tokens, one after the other, with what is stored and the `behind` tokens after it."""
        held = slice(self.current.state.start, self.current.state.stop + behind)
        for index in range(len(self.layers)):  # holding on to no buffer from one round to the next
            buffers = self.current.state.buffers
            if buffers[index] is not None and buffers[index].shape[-2] != capacity:
                made = buffers[index].new_empty((*buffers[index].shape[:3], capacity, buffers[index].shape[-1]))
                made[..., held, :] = buffers[index][..., held, :]
                self.current.state = replace(self.current.state, buffers=(*buffers[:index], made, *buffers[index + 1 :]))
            del buffers
