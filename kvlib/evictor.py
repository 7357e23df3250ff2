"""Forgetting within a budget: when room is needed, a policy chooses, and the survivors are put in their places.

The sink is the whole first chunk (system turn and first frames), found from the real cache length after the first forward;
StreamingLLM (arXiv:2309.17453) showed that the first tokens must stay, with a constant of 4. A chunk is never split, so a
frame is either remembered or forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch

from kvlib.cache import ChunkSpan, StreamCache
from kvlib.policies import POLICIES

POSITION_MODES = ("keep", "remap", "compact", "unrotated")
FAR = 2**17  # position from which on fp32 angles lose more than 0.01 rad; "remap" starts again at 0 there


@dataclass(frozen=True)
class EvictionConfig:
    """How much may be remembered and what happens to positions. Sizes in tokens; 0 = find it from the stream.

    max_cache_tokens: the budget; the stream never holds more.
    sink_size: at least this many of the first tokens stay, rounded up to whole chunks; 0 = the first chunk.
    window_size: at most this many of the newest tokens stay; 0 = the budget less the sink.
    policy: a name in `kvlib.policies.POLICIES`, or a policy such as `Importance("key_norm")`.
    position_mode: "keep" leaves holes in the positions. The others make the survivors contiguous: "remap" turns the keys on
        the smaller side of the holes, "compact" those behind them, so that positions begin at 0; "unrotated" stores keys
        without RoPE and turns all of them in every forward, as StreamingLLM does.
    eviction_interval: evict at most once in so many chunks; each eviction then makes room for that many.

    Raises ValueError for sizes that cannot work and for unknown names.
    """

    max_cache_tokens: int
    sink_size: int = 0
    window_size: int = 0
    policy: object = "sink_window"
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
        if isinstance(self.policy, str) and self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r} is unknown: choose one of {', '.join(POLICIES)}")
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"position_mode={self.position_mode!r} is unknown: choose one of {', '.join(POSITION_MODES)}")

    def make_policy(self):
        """The policy itself."""
        return POLICIES[self.policy]() if isinstance(self.policy, str) else self.policy


def from_front(chunks: Sequence[ChunkSpan], start: int) -> list[int]:
    """Where `chunks` begin when they follow one another without holes, the first at position `start`."""
    return [start + extent for extent in accumulate((chunk.stop - chunk.start for chunk in chunks[:-1]), initial=0)]


def to_back(chunks: Sequence[ChunkSpan]) -> list[int]:
    """Where `chunks` begin when they follow one another without holes and the last stays where it is."""
    return from_front(chunks, chunks[-1].stop - sum(chunk.stop - chunk.start for chunk in chunks))


@dataclass
class KVCacheEvictor:
    """Decides which whole chunks go, removes them, and keeps count.

    `inverse_frequencies`: the model's RoPE frequencies [head_dim / 2], needed to turn keys.
    """

    config: EvictionConfig
    inverse_frequencies: torch.Tensor
    effective_sink_size: int = 0
    effective_window_size: int = 0
    total_evictions: int = 0
    total_tokens_evicted: int = 0
    _first_chunk_recorded: bool = False
    _sink_chunks: int = 0
    _chunks_seen: int = 0
    _avg_chunk_tokens: float = 0.0

    def __post_init__(self):
        self.policy = self.config.make_policy()

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

    def score(self, cache: StreamCache, chunks: Sequence[ChunkSpan]) -> float:
        """The policy's score of the newest chunk; 0 when it does not score."""
        if not hasattr(self.policy, "score"):
            return 0.0
        rotated = self.config.position_mode != "unrotated"  # keys that are not need no turning before they are compared
        return self.policy.score(cache, chunks, self.inverse_frequencies * rotated)

    def evict(self, cache: StreamCache, chunks: Sequence[ChunkSpan], incoming: int) -> list[ChunkSpan]:
        """Make room for `incoming` tokens: forget the policy's victims; returns the chunks that stay, where they now stand.

        With `eviction_interval` k room is made for k such chunks, as far as the newest chunk can stay.
        Raises ValueError (see `check_fits`) before anything is changed.
        """
        self.check_fits(incoming)
        stays = self._choose(chunks, incoming)
        if len(stays) == len(chunks):
            return list(chunks)
        kept = {chunk.index for chunk in stays}
        gone = {place for place, chunk in enumerate(chunks) if chunk.index not in kept}
        cache.evict(chunks, gone)
        self.total_evictions += 1
        self.total_tokens_evicted += sum(chunks[place].tokens for place in gone)
        starts = self._starts(stays)
        if self.config.position_mode != "unrotated":
            cache.turn(stays, starts, self.inverse_frequencies)
        return [replace(c, start=start, stop=start + c.stop - c.start) for c, start in zip(stays, starts, strict=True)]

    def _choose(self, chunks: Sequence[ChunkSpan], incoming: int) -> list[ChunkSpan]:
        stays, stored = list(chunks), sum(chunk.tokens for chunk in chunks)
        wanted, sink = incoming * self.config.eviction_interval, self._sink_chunks
        while len(stays) > sink and (
            stored + incoming > self.limit or (stored + wanted > self.limit and len(stays) > sink + 1)
        ):
            one_left = len(stays) == sink + 1
            victim = sink if one_left else self.policy.victim(stays, sink, self.effective_window_size)
            stored -= stays.pop(victim).tokens
        return stays

    def _starts(self, stays: Sequence[ChunkSpan]) -> list[int]:
        """Where the chunks that stay begin: where they did in "keep", else one after the other without holes."""
        if self.config.position_mode == "keep":
            return [chunk.start for chunk in stays]
        if self.config.position_mode != "remap":
            return from_front(stays, stays[0].start)
        if stays[-1].stop > FAR:
            return from_front(stays, 0)

        def cost(starts: list[int]) -> int:
            return sum(chunk.tokens for chunk, start in zip(stays, starts, strict=True) if start != chunk.start)

        return min(to_back(stays), from_front(stays, stays[0].start), key=cost)

    def stats(self) -> dict:
        """Counters for reports."""
        return {
            "total_evictions": self.total_evictions,
            "total_tokens_evicted": self.total_tokens_evicted,
            "sink_tokens": self.effective_sink_size,
            "window_tokens": self.effective_window_size,
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
