"""The cache manager: room for the next chunk, tails behind the stream, commits, snapshots, and the fingerprint of all of it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from kvlib.cache import StreamCache, Tail
from kvlib.evictor import KVCacheEvictor
from kvlib.state import ChunkSpan, Current, StreamState

QUESTION_ROOM = 512  # tokens kept free behind the stream so that an ordinary question never moves it
SLACK, MOST_SLACK = 0.1, 16384  # of the budget, tokens: one move of the window pays for so many evicted tokens


class KVCacheManager:
    """Owns a stream's `cache`, its `evictor` (None = never evict) and its `archive` (None = what is evicted is gone). Keys and
    values are stored in `kv_dtype`; None = as the model computes them.

    Every change is one transaction: it computes a new `StreamState` and then puts it in the place of the old one. An
    exception at any moment leaves the stream as it was, or, while a chunk is appended, with room made for it.
    """

    def __init__(self, layers: int, evictor: KVCacheEvictor | None = None, kv_dtype: torch.dtype | None = None, archive=None):
        self.evictor, self.archive = evictor, archive
        self.current = evictor.current if evictor else Current(StreamState())
        capacity = _capacity(self.state.config.max_cache_tokens if evictor else 0)
        self.current.state = replace(self.state, buffers=(None,) * layers, capacity=capacity)
        self.cache = StreamCache(layers, self.current, kv_dtype)
        self._spare: tuple[torch.Tensor | None, ...] = (None,) * layers  # of `undone`

    state = property(lambda self: self.current.state, doc="The present state of the stream.")
    chunks = property(lambda self: self.state.chunks, doc="The stored chunks, oldest first.")
    positions = property(lambda self: self.state.positions, doc="M-RoPE positions of the stored tokens, int64 [3, tokens].")
    next_position = property(lambda self: self.state.next_position, doc="M-RoPE position of the next token.")
    chunks_seen = property(lambda self: self.state.chunks_seen, doc="Chunks ever stored.")
    seen = property(lambda self: self.state.seen, doc="Tokens ever stored.")

    @property
    def last_time(self) -> float | None:
        """The time in seconds of the newest chunk; None before the first."""
        return self.chunks[-1].time_s if self.chunks else None

    def get_seq_length(self) -> int:
        """Tokens stored now."""
        return self.state.stored

    def make_room(self, incoming: int) -> None:
        """Make room for a chunk of `incoming` tokens, and for a question behind it, evicting if the budget demands it.

        Raises ValueError when the chunk can never fit; nothing is changed then.
        """
        self.cache.trim()
        if self.evictor is not None:
            self.current.state = self.evictor.evict(self.state, incoming)
        self.cache.reserve(incoming + QUESTION_ROOM)

    def tail(self) -> Tail:
        """Room to write tokens behind the stored ones that are no part of the stream, or not yet."""
        self.current.settle()
        return Tail(self.state, self.cache.stored_dtype)

    def track_tokens(
        self,
        tail: Tail,
        positions: torch.Tensor,
        next_position: int,
        is_new_chunk: bool = True,
        time_s: float = 0.0,
        dropped: int = 0,
    ) -> dict | None:
        """Record what a forward has written to `tail`: tokens at `positions` int64 [3, n], the next one at `next_position`.

        A new chunk, whose last frame was shown at `time_s` and of which `dropped` tokens were not kept, becomes part of the
        stream and of the archive, and teaches the evictor; `info` of the stream is returned. Other tokens (of a question, of an
        answer) stay in the tail. A commit is the last thing that happens here."""
        tail.advance(positions.shape[1], next_position)
        if not is_new_chunk:
            return None
        state, tokens = self.state, tail.tokens
        start = state.next_position
        chunk = ChunkSpan(state.chunks_seen, tokens, start, next_position, start, time_s=time_s, dropped=dropped)
        tail.spread = (*state.spread, positions - start)
        if self.evictor is not None:
            chunk = replace(chunk, score=self.evictor.score(tail, (*state.chunks, chunk)))
        made = replace(
            state,
            buffers=tuple(tail.buffers),
            stop=tail.stop,
            chunks=(*state.chunks, chunk),
            spread=tail.spread,
            chunks_seen=state.chunks_seen + 1,
            seen=state.seen + tokens,
            dropped=state.dropped + dropped,
            next_position=next_position,
            counts=state.counts.with_chunk(tokens, state.config.sink_size if state.config else 0),
        )
        if self.archive is not None:
            made = self.archive.store(state, made)
        return self._commit(made, self.info(made))

    def shrink(self, max_cache_tokens: int) -> None:
        """Make the budget smaller: evict down to it and give the memory back.

        Raises ValueError for a stream that never evicts, for a budget that is not smaller, and for one into which the sink
        and the newest chunk do not fit; nothing is changed then.
        """
        if self.evictor is None:
            raise ValueError("shrink() needs a budget: make the engine with an eviction_config")
        state, old = self.state, self.state.config
        whole = isinstance(max_cache_tokens, int) and not isinstance(max_cache_tokens, bool)
        if not whole or max_cache_tokens >= old.max_cache_tokens:
            raise ValueError(
                f"max_cache_tokens={max_cache_tokens!r}: give a whole number below the present budget of {old.max_cache_tokens}"
            )
        least = state.counts.sink_size + (state.chunks[-1].tokens if len(state.chunks) > state.counts.sink_chunks else 0)
        if max_cache_tokens < max(1, least):
            raise ValueError(
                f"max_cache_tokens={max_cache_tokens}: sink and newest chunk take {least} tokens, give at least that"
            )
        self.current.settle()
        share = old.recall_tokens * max_cache_tokens // old.max_cache_tokens
        recall_tokens = min(share, max_cache_tokens - max(least, old.sink_size))
        room = max(0, max_cache_tokens - old.sink_size - recall_tokens)
        config = replace(
            old, max_cache_tokens=max_cache_tokens, window_size=min(old.window_size, room), recall_tokens=recall_tokens
        )
        made = self.evictor.evict(replace(self.state, config=config), 0)
        self.current.state = replace(made, capacity=_capacity(max_cache_tokens))
        self.cache.trim()

    def contiguous(self) -> StreamState:
        """A copy of the stream, in buffers of its own, whose chunks stand at contiguous positions: for a counterfactual.

        Raises ValueError for a stream that never evicts: it has no holes."""
        if self.evictor is None:
            raise ValueError("a stream without eviction_config has no holes to close")
        self.current.settle()
        copy = replace(self.state, buffers=tuple(buffer.clone() for buffer in self.state.buffers))
        return self.evictor.at_contiguous_positions(copy)

    def take_snapshot(self) -> StreamState:
        """Remember this moment: the state without keys and values. Restoring cuts off what was appended since."""
        return replace(self.state, buffers=(), originals={}, pending=())

    def restore_snapshot(self, snapshot: StreamState) -> None:
        """Go back to `snapshot`: cache, record, position and eviction counts.

        Raises RuntimeError when tokens that it refers to are gone, by an eviction or since an older snapshot was restored;
        nothing is changed then.
        """
        state = self.state
        evictions = state.counts.evictions - snapshot.counts.evictions
        kept = state.chunks[: len(snapshot.chunks)]
        if len(kept) < len(snapshot.chunks) or any(a is not b for a, b in zip(kept, snapshot.chunks, strict=True)):
            raise RuntimeError(
                f"{evictions} eviction(s), or a restored older snapshot, have removed tokens that this snapshot refers to: "
                "take a new snapshot"
            )
        self.current.state = replace(
            snapshot,
            buffers=state.buffers,
            start=state.start,
            stop=state.start + snapshot.stored,
            capacity=state.capacity,
            originals=state.originals,
            pending=state.pending,
            config=state.config,
            archived=tuple(chunk for chunk in state.archived if chunk.span.index < snapshot.chunks_seen),
            archive_dropped=state.archive_dropped,
        )

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What is appended inside is not part of the stream afterwards, also when an exception ends it: the stream is exactly
        as before, with all that was evicted inside.

        A stream with a budget has its keys and values copied, because an eviction moves them. The copy takes as much device
        memory as the stream, and is kept for the next time. No other thread may use the stream meanwhile."""
        self.current.settle()
        state = self.state
        if self.evictor is not None:
            self._spare = tuple(map(_copied, state.buffers, self._spare))
            self.current.state = replace(state, buffers=self._spare)
        try:
            yield
        finally:
            self.current.state = state

    def fingerprint(self) -> str:
        """SHA-256 of every stored key and value and of every record and counter; equal means untouched."""
        self.current.settle()
        digest, state = hashlib.sha256(), self.state
        stored = (buffer[..., state.start : state.stop, :] for buffer in state.buffers if buffer is not None)
        for tensor in (*stored, *(part for parts in state.originals.values() for part in parts)):
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy())
        digest.update(state.positions.numpy())
        record = (state.chunks, state.chunks_seen, state.seen, state.dropped, state.next_position, state.config, state.counts)
        record += (tuple(chunk.span for chunk in state.archived), state.archive_dropped) if self.archive else ()
        digest.update(repr(record).encode())
        return digest.hexdigest()

    def info(self, state: StreamState | None = None) -> dict:
        """Length and memory of the cache, now or in another `state`.

        `cache_seq_length` (tokens stored), `tokens_seen` (of all chunks), `tokens_dropped` (of these, never stored, because
        their part of the picture stood still), `chunks` (stored), `cache_bytes` (held on devices, filled or not),
        `cache_memory_gb` (the same in GiB), `next_position`, with eviction on `eviction_stats`, and what an archive tells."""
        state = state or self.state
        held = state.nbytes()
        info = {
            "cache_seq_length": state.stored,
            "tokens_seen": state.seen + state.dropped,
            "tokens_dropped": state.dropped,
            "chunks": len(state.chunks),
            "cache_bytes": held,
            "cache_memory_gb": held / 2**30,
            "next_position": state.next_position,
        }
        if self.evictor is not None:
            info["eviction_stats"] = self.evictor.stats(state)
        if self.archive is not None:
            info |= self.archive.info(state)
        return info

    def _commit(self, state: StreamState, result):
        """Make `state` that of the stream and return `result`: in one expression, so that no exception can come between."""
        return setattr(self.current, "state", state) or result  # noqa: B010


def _capacity(budget: int) -> int:
    """Tokens that a buffer holds for a stream of `budget` tokens."""
    return budget + min(int(budget * SLACK), MOST_SLACK) + QUESTION_ROOM


def _copied(buffer: torch.Tensor | None, spare: torch.Tensor | None) -> torch.Tensor | None:
    """A copy of `buffer`, in the memory of `spare` where that has its shape."""
    if buffer is None or spare is None or spare.shape != buffer.shape:
        return None if buffer is None else buffer.clone()
    return spare.copy_(buffer)
