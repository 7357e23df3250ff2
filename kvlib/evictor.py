"""What to forget: sink + window over whole chunks, and where the survivors then stand.

The sink is the whole first chunk (system turn and first frames), found from the real cache length after the first forward;
StreamingLLM (arXiv:2309.17453) showed that the first tokens must stay, with a constant of 4. A chunk is never split, so a
frame is either remembered or forgotten.
"""

from dataclasses import dataclass, fields

import torch

from kvlib.cache import StreamCache
from kvlib.positions import rotate_keys

POLICIES = ("sink_window",)
POSITION_MODES = ("keep", "remap")


@dataclass(frozen=True)
class EvictionConfig:
    """How much may be remembered and what happens to positions. Sizes in tokens; 0 = find it from the stream.

    max_cache_tokens: the budget; the stream never holds more.
    sink_size: at least this many of the first tokens stay, rounded up to whole chunks; 0 = the first chunk.
    window_size: at most this many of the newest tokens stay; 0 = the budget less the sink.
    policy: "sink_window".
    position_mode: "keep" leaves the hole in the positions; "remap" moves the sink up to the window, so that the
        survivors are contiguous.
    eviction_interval: evict at most once in so many chunks; each eviction then makes room for that many.

    Raises ValueError for sizes that cannot work and for unknown names.
    """

    max_cache_tokens: int
    sink_size: int = 0
    window_size: int = 0
    policy: str = "sink_window"
    position_mode: str = "keep"
    eviction_interval: int = 1

    def __post_init__(self):
        for name, least in (("max_cache_tokens", 1), ("sink_size", 0), ("window_size", 0), ("eviction_interval", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: give a whole number of at least {least}")
        if self.sink_size + self.window_size > self.max_cache_tokens:
            raise ValueError(
                f"sink_size={self.sink_size} + window_size={self.window_size} exceed "
                f"max_cache_tokens={self.max_cache_tokens}: raise the budget or lower one of them"
            )
        for name, known in (("policy", POLICIES), ("position_mode", POSITION_MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {', '.join(known)}")


@dataclass(frozen=True)
class ChunkSpan:
    """One remembered chunk: its tokens in the cache and its positions [start, stop)."""

    index: int
    tokens: int
    start: int
    stop: int


@dataclass
class KVCacheEvictor:
    """Decides which whole chunks go, removes them, and keeps count.

    `inverse_frequencies`: the model's RoPE frequencies [head_dim / 2], needed by "remap" to turn the sink's keys.
    """

    config: EvictionConfig
    inverse_frequencies: torch.Tensor
    effective_sink_size: int = 0
    effective_window_size: int = 0
    total_evictions: int = 0
    total_tokens_evicted: int = 0
    sink_shift: int = 0  # positions by which the sink stands later than it was computed
    _first_chunk_recorded: bool = False
    _sink_chunks: int = 0
    _chunks_seen: int = 0
    _avg_chunk_tokens: float = 0.0

    def set_first_chunk_info(self, tokens: int) -> None:
        """Record the first chunk, `tokens` = cache length after its forward: it is the sink."""
        self._first_chunk_recorded, self._sink_chunks = True, 1
        self._set_sink(tokens)

    def update_chunk_stats(self, tokens: int) -> None:
        """Take a later chunk of `tokens` tokens into the mean; it joins the sink while `sink_size` is not reached."""
        self._chunks_seen += 1
        self._avg_chunk_tokens += (tokens - self._avg_chunk_tokens) / self._chunks_seen
        if self.effective_sink_size < self.config.sink_size and self._chunks_seen == self._sink_chunks:
            self._sink_chunks += 1
            self._set_sink(self.effective_sink_size + tokens)

    def should_evict(self, stored: int, incoming: int) -> bool:
        """True when `incoming` more tokens do not fit behind the `stored` ones."""
        return stored + incoming > self.limit

    @property
    def limit(self) -> int:
        """Most tokens that may be stored: sink + window, or the whole budget while the sink is unknown."""
        if not self._first_chunk_recorded:
            return self.config.max_cache_tokens
        return self.effective_sink_size + self.effective_window_size

    def check_fits(self, incoming: int) -> None:
        """Raise ValueError when a chunk of `incoming` tokens can never be stored beside the sink."""
        if self.effective_sink_size + incoming > self.limit:
            raise ValueError(
                f"a chunk of {incoming} tokens does not fit beside a sink of {self.effective_sink_size} within "
                f"{self.limit} tokens (max_cache_tokens={self.config.max_cache_tokens}): raise max_cache_tokens to at "
                f"least {self.effective_sink_size + incoming}, or use fewer or smaller frames per chunk"
            )

    def evict(self, cache: StreamCache, chunks: list[ChunkSpan], incoming: int) -> list[ChunkSpan]:
        """Make room for `incoming` tokens: forget the oldest chunks behind the sink; returns the chunks that stay.

        With `eviction_interval` k room is made for k such chunks, as far as the newest chunk can stay.
        Raises ValueError (see `check_fits`) before anything is changed.
        """
        self.check_fits(incoming)
        sink, rest = chunks[: self._sink_chunks], chunks[self._sink_chunks :]
        stored = sum(chunk.tokens for chunk in chunks)
        wanted, gone = incoming * self.config.eviction_interval, 0
        while rest and (stored + incoming > self.limit or (stored + wanted > self.limit and len(rest) > 1)):
            stored -= rest[0].tokens
            gone += rest[0].tokens
            last, rest = rest[0], rest[1:]
        if not gone:
            return chunks
        cache.evict_range(self.effective_sink_size, self.effective_sink_size + gone)
        self.total_evictions += 1
        self.total_tokens_evicted += gone
        if self.config.position_mode == "remap":
            shift = last.stop - sink[-1].stop
            self._shift_sink(cache, shift)
            sink = [ChunkSpan(c.index, c.tokens, c.start + shift, c.stop + shift) for c in sink]
        return sink + rest

    def stats(self) -> dict:
        """Counters for reports."""
        return {
            "total_evictions": self.total_evictions,
            "total_tokens_evicted": self.total_tokens_evicted,
            "sink_tokens": self.effective_sink_size,
            "window_tokens": self.effective_window_size,
            "sink_shift": self.sink_shift,
        }

    def state(self) -> dict:
        """Everything that changes while a stream runs, by name; `load_state` puts it back."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("config", "inverse_frequencies")}

    def load_state(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _set_sink(self, tokens: int) -> None:
        self.effective_sink_size = tokens
        self.effective_window_size = self.config.window_size or max(0, self.config.max_cache_tokens - tokens)

    def _shift_sink(self, cache: StreamCache, shift: int) -> None:
        """Turn the sink's keys forward to the total shift, always from the keys as they were first computed.

        RoPE sees differences only: moving the sink up by the evicted span equals pulling the window and all that is to
        come back by it, at O(sink) instead of O(cache).
        """
        self.sink_shift += shift
        for layer in cache.layers:
            sink = layer.keys[:, :, : self.effective_sink_size]
            if layer.kept_sink is None:
                layer.kept_sink = sink.clone()
            sink.copy_(rotate_keys(layer.kept_sink, self.sink_shift, self.inverse_frequencies))
