"""The state of a stream as one immutable object, and the one place that holds it.

A stream changes only by replacing `Current.state`, which Python does in one step. An exception at any moment therefore finds
the old state or the new one. What has to be copied inside the buffers after a change is written down in the new state as
`pending` steps. Each step can be done twice with the same result, so whoever comes next can finish what an exception cut off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from kvlib.archive.chunks import ArchivedChunk
    from kvlib.evictor import EvictionConfig


@dataclass(frozen=True)
class ChunkSpan:
    """One stored chunk: its number in the stream, its tokens, the positions [start, stop) where it stands now, the `origin`
    where it started when its keys were computed, the `score` that a policy may have given it, the time in seconds of its last
    frame, and how many of its tokens were `dropped`, see `kvlib.encoding`."""

    index: int
    tokens: int
    start: int
    stop: int
    origin: int
    score: float = 0.0
    time_s: float = 0.0
    dropped: int = 0


@dataclass(frozen=True)
class EvictionCounts:
    """What the evictor has learned and done. Sizes in tokens; `sink_chunks` chunks form the sink, `later_chunks` came after the
    first, with a mean of `avg_chunk_tokens`."""

    sink_size: int = 0
    sink_chunks: int = 0
    later_chunks: int = 0
    avg_chunk_tokens: float = 0.0
    evictions: int = 0
    tokens_evicted: int = 0

    def with_chunk(self, tokens: int, least_sink: int) -> "EvictionCounts":
        """After one more chunk of `tokens` tokens. The first is the sink; later ones join it while it is below `least_sink`."""
        seen = (self.evictions, self.tokens_evicted)
        if self.sink_chunks == 0:
            return EvictionCounts(tokens, 1, 0, 0.0, *seen)
        later = self.later_chunks + 1
        mean = self.avg_chunk_tokens + (tokens - self.avg_chunk_tokens) / later
        joins = self.sink_size < least_sink and later == self.sink_chunks
        return EvictionCounts(self.sink_size + tokens * joins, self.sink_chunks + joins, later, mean, *seen)


@dataclass(frozen=True)
class StreamState:
    """All that a stream is at one moment.

    Every layer has a buffer [2 (keys, values), 1, KV heads, capacity, head dim], None before the first chunk; the stored tokens
    lie in [start, stop) of all of them. `capacity` is what the stream needs; a buffer is longer only while an answer needs it.
    `originals` has, by chunk number, the keys as they were computed of chunks that have been re-rotated, as `key_copies` makes
    them. `spread` has, for each chunk, the positions of its tokens less its start, int64 [3, n]. `next_position` is that of the
    next token. `chunks_seen` and `seen` count all chunks and their tokens that were ever stored, `dropped` the tokens of these
    chunks that never were. `archived` has the chunks that
    recall can bring back, those in the stream among them; `archive_dropped` were given up for the archive's limit.
    """

    buffers: tuple[torch.Tensor | None, ...] = ()
    start: int = 0
    stop: int = 0
    capacity: int = 0
    originals: Mapping[int, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    pending: tuple = ()
    chunks: tuple[ChunkSpan, ...] = ()
    spread: tuple[torch.Tensor, ...] = ()
    chunks_seen: int = 0
    seen: int = 0
    dropped: int = 0
    next_position: int = 0
    config: "EvictionConfig | None" = None
    counts: EvictionCounts = EvictionCounts()
    archived: tuple["ArchivedChunk", ...] = ()
    archive_dropped: int = 0

    @property
    def stored(self) -> int:
        """Tokens stored."""
        return self.stop - self.start

    @property
    def positions(self) -> torch.Tensor:
        """M-RoPE positions of the stored tokens, int64 [3, tokens]."""
        parts = [part + chunk.start for part, chunk in zip(self.spread, self.chunks, strict=True)]
        return torch.cat(parts, dim=1) if parts else torch.empty(3, 0, dtype=torch.long)

    @property
    def limit(self) -> int:
        """Most tokens that may be stored: the budget less the room for recall, or sink and window where these are less."""
        most, window = self.config.max_cache_tokens - self.config.recall_tokens, self.config.window_size
        return min(most, self.counts.sink_size + window) if window and self.counts.sink_chunks else most

    def nbytes(self) -> int:
        """Bytes of device memory: the whole buffers, filled or not, and the originals of re-rotated keys."""
        held = [buffer for buffer in self.buffers if buffer is not None]
        return sum(tensor.nbytes for tensor in (*held, *(part for parts in self.originals.values() for part in parts)))

    def room(self, which=min) -> int:
        """Tokens that the shortest (or with `max` the longest) buffer holds."""
        return which((buffer.shape[-2] for buffer in self.buffers if buffer is not None), default=self.capacity)

    @property
    def evicted(self) -> dict[int, "ArchivedChunk"]:
        """The archived chunks that are not stored any more, by number."""
        stored = {chunk.index for chunk in self.chunks}
        return {chunk.span.index: chunk for chunk in self.archived if chunk.span.index not in stored}

    def offsets(self) -> list[int]:
        """Where each chunk begins in the buffers."""
        return list(accumulate((chunk.tokens for chunk in self.chunks), initial=self.start))[:-1]


class Current:
    """Holds the present `state` of one stream; cache, evictor and manager share it. `buffers`, `start`, `stop` and
    `originals` are those of the state, with nothing pending."""

    new = 0  # tokens behind `stop` that a forward has written: never any, see `kvlib.cache.Tail`

    def __init__(self, state: StreamState):
        self.state = state

    @property
    def buffers(self) -> tuple[torch.Tensor | None, ...]:
        self.settle()
        return self.state.buffers

    start = property(lambda self: self.state.start)
    stop = property(lambda self: self.state.stop)
    originals = property(lambda self: self.state.originals)

    def settle(self) -> None:
        """Do the pending steps of the state, those first that an exception cut off."""
        while self.state.pending:
            state = self.state
            step, *others = state.pending
            following = step.run(state)
            self.state = replace(state, pending=tuple(others) if following is None else (following, *others))
