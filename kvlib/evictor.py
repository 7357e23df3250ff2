"""Forgetting within a budget: when room is needed, a policy chooses, and the survivors are put in their places.

The sink is the whole first chunk (system turn and first frames), found from the real cache length after the first forward;
StreamingLLM (arXiv:2309.17453) showed that the first tokens must stay, with a constant of 4. A chunk is never split, so a
frame is either remembered or forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from kvlib.policies import POLICIES
from kvlib.state import ChunkSpan, Current, EvictionCounts, StreamState
from kvlib.steps import closed, placed, rerotated

POSITION_MODES = ("keep", "remap", "compact", "unrotated")


@dataclass(frozen=True)
class EvictionConfig:
    """How much may be remembered and what happens to positions. Sizes in tokens; 0 = find it from the stream.

    max_cache_tokens: the budget; the stream never holds more.
    sink_size: at least this many of the first tokens stay, rounded up to whole chunks; 0 = the first chunk.
    window_size: at most this many of the newest tokens stay; 0 = the budget less the sink.
    policy: a name in `kvlib.policies.POLICIES`, or a policy such as `Importance("key_norm")`.
    position_mode: "keep" leaves holes in the positions. The others make the survivors contiguous: "remap" re-rotates the keys
        on the smaller side of the holes, "compact" those behind them, so that positions begin at 0; "unrotated" stores keys
        without RoPE and rotates all of them in every forward, as StreamingLLM does.
    eviction_interval: evict at most once in so many chunks; each eviction then makes room for that many.
    recall_tokens: this part of the budget stays free for chunks that a question brings back from the archive.

    Raises ValueError for sizes that cannot work and for unknown names.
    """

    max_cache_tokens: int
    sink_size: int = 0
    window_size: int = 0
    policy: object = "sink_window"
    position_mode: str = "remap"
    eviction_interval: int = 1
    recall_tokens: int = 0

    def __post_init__(self):
        for name, least in (
            ("max_cache_tokens", 1),
            ("sink_size", 0),
            ("window_size", 0),
            ("eviction_interval", 1),
            ("recall_tokens", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: give a whole number of at least {least}")
        if self.sink_size + self.window_size + self.recall_tokens > self.max_cache_tokens:
            raise ValueError(
                f"sink_size={self.sink_size} + window_size={self.window_size} + recall_tokens={self.recall_tokens} exceed "
                f"max_cache_tokens={self.max_cache_tokens}: raise the budget or lower one of them"
            )
        if isinstance(self.policy, str) and self.policy not in POLICIES:
            raise ValueError(f"policy={self.policy!r} is unknown: choose one of {', '.join(POLICIES)}")
        if not isinstance(self.policy, str) and (
            isinstance(self.policy, type) or not callable(getattr(self.policy, "victim", None))
        ):
            raise ValueError(
                f"policy={self.policy!r} is no policy: give a name ({', '.join(POLICIES)}) or an object with a method "
                "`victim`, such as Importance('key_norm')"
            )
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"position_mode={self.position_mode!r} is unknown: choose one of {', '.join(POSITION_MODES)}")

    def make_policy(self):
        """The policy itself."""
        return POLICIES[self.policy]() if isinstance(self.policy, str) else self.policy


def contiguous_from(chunks: Sequence[ChunkSpan], start: int) -> list[int]:
    """Where `chunks` begin when they follow one another without holes, the first at position `start`."""
    return [start + extent for extent in accumulate((chunk.stop - chunk.start for chunk in chunks[:-1]), initial=0)]


def contiguous_up_to(chunks: Sequence[ChunkSpan]) -> list[int]:
    """Where `chunks` begin when they follow one another without holes and the last stays where it is."""
    return contiguous_from(chunks, chunks[-1].stop - sum(chunk.stop - chunk.start for chunk in chunks))


class KVCacheEvictor:
    """Decides which whole chunks go and where the others stand then, and counts.

    `inverse_frequencies`: the model's RoPE frequencies [head_dim / 2], needed to re-rotate keys. All that changes is part of
    the stream's state in `current`, which the cache manager shares.
    """

    def __init__(self, config: EvictionConfig, inverse_frequencies: torch.Tensor):
        self.inverse_frequencies = inverse_frequencies
        self.current = Current(StreamState(config=config))
        self.policy = config.make_policy()

    config = property(lambda self: self.current.state.config)
    effective_sink_size = property(lambda self: self._counts.sink_size, doc="Tokens of the sink; 0 before the first chunk.")
    total_evictions = property(lambda self: self._counts.evictions, doc="Evictions so far.")
    total_tokens_evicted = property(lambda self: self._counts.tokens_evicted, doc="Tokens evicted so far.")
    sink_chunks = _sink_chunks = property(lambda self: self._counts.sink_chunks, doc="Chunks that form the sink.")
    avg_chunk_tokens = _avg_chunk_tokens = property(
        lambda self: self._counts.avg_chunk_tokens, doc="Mean tokens of the chunks after the first; 0 before there is one."
    )
    _first_chunk_recorded = property(lambda self: self._counts.sink_chunks > 0)
    _counts = property(lambda self: self.current.state.counts)

    @property
    def effective_window_size(self) -> int:
        """Tokens that may be stored behind the sink; 0 before the first chunk."""
        return self.limit - self.effective_sink_size if self.sink_chunks else 0

    @property
    def limit(self) -> int:
        """Most tokens that may be stored: the budget, or sink and window where these are less."""
        return self.current.state.limit

    def set_first_chunk_info(self, tokens: int) -> None:
        """Record the first chunk, `tokens` = cache length after its forward: it is the sink."""
        self._record(EvictionCounts(), tokens)

    def update_chunk_stats(self, tokens: int) -> None:
        """Take a later chunk of `tokens` tokens into the mean; it joins the sink while `sink_size` is not reached."""
        self._record(self._counts, tokens)

    def should_evict(self, stored: int, incoming: int) -> bool:
        """True when `incoming` more tokens do not fit behind the `stored` ones."""
        return stored + incoming > self.limit

    def score(self, cache, chunks: Sequence[ChunkSpan]) -> float:
        """The policy's score of the newest chunk, whose keys and values are the last in the layers of `cache`.

        0 when the policy does not score."""
        if not hasattr(self.policy, "score"):
            return 0.0
        rotated = self.config.position_mode != "unrotated"  # keys that are not need no rotation before they are compared
        return self.policy.score(cache, chunks, self.inverse_frequencies * rotated)

    def evict(self, state: StreamState, incoming: int) -> StreamState:
        """The `state` with room for `incoming` tokens: without the policy's victims, the others where they then stand.

        Nothing in the buffers is changed yet; what must be is in the new state's pending steps. With `eviction_interval` k,
        room is made for k such chunks, as far as the newest chunk can stay. Raises ValueError when they can never
        fit beside the sink.
        """
        _check_fits(state, incoming)
        if state.stored + incoming <= state.limit:
            return state
        gone = self._victims(state, incoming)
        evicted = sum(state.chunks[place].tokens for place in gone)
        counts = state.counts
        counts = replace(counts, evictions=counts.evictions + 1, tokens_evicted=counts.tokens_evicted + evicted)
        made = replace(closed(state, gone), counts=counts)
        return self._placed(made, state, _starts(made.config.position_mode, made.chunks))

    def at_contiguous_positions(self, state: StreamState) -> StreamState:
        """The `state` with its chunks at contiguous positions, those in front of a hole moved up to it."""
        return self._placed(state, state, contiguous_up_to(state.chunks))

    def stats(self, state: StreamState | None = None) -> dict:
        """Counters for reports, now or in another `state` of the stream."""
        state = state or self.current.state
        return {
            "total_evictions": state.counts.evictions,
            "total_tokens_evicted": state.counts.tokens_evicted,
            "sink_tokens": state.counts.sink_size,
            "window_tokens": state.limit - state.counts.sink_size if state.counts.sink_chunks else 0,
        }

    def _record(self, counts: EvictionCounts, tokens: int) -> None:
        self.current.state = replace(self.current.state, counts=counts.with_chunk(tokens, self.config.sink_size))

    def _placed(self, state: StreamState, before: StreamState, starts: Sequence[int]) -> StreamState:
        if state.config.position_mode == "keep" and starts == [chunk.start for chunk in state.chunks]:
            return state
        if state.config.position_mode != "unrotated":
            state = rerotated(state, before, starts, self.inverse_frequencies)
        return placed(state, starts)

    def _victims(self, state: StreamState, incoming: int) -> set[int]:
        """Places in the list of chunks that the policy gives up, one after the other, until there is room."""
        stays, stored, limit, sink = list(range(len(state.chunks))), state.stored, state.limit, state.counts.sink_chunks
        wanted = incoming * state.config.eviction_interval
        while len(stays) > sink and (stored + incoming > limit or (stored + wanted > limit and len(stays) > sink + 1)):
            choice = sink  # the one chunk behind the sink, if there is no other
            if len(stays) > sink + 1:
                choice = self.policy.victim([state.chunks[place] for place in stays], sink, limit - state.counts.sink_size)
                if choice not in range(sink, len(stays) - 1):
                    raise ValueError(
                        f"{self.policy!r} chose chunk {choice!r} of {len(stays)}: it must choose one behind the {sink} of the "
                        "sink and before the newest"
                    )
            stored -= state.chunks[stays.pop(choice)].tokens
        return set(range(len(state.chunks))) - set(stays)


def _check_fits(state: StreamState, incoming: int) -> None:
    sink, limit, budget, window = state.counts.sink_size, state.limit, state.config.max_cache_tokens, state.config.window_size
    if sink + incoming > limit:
        remedy = f"raise max_cache_tokens to at least {sink + incoming + state.config.recall_tokens}"
        if limit < budget - state.config.recall_tokens:
            remedy = f"raise window_size={window} to at least {incoming}"
        raise ValueError(
            f"a chunk of {incoming} tokens does not fit beside a sink of {sink} within {limit} tokens "
            f"(max_cache_tokens={budget}): {remedy}, or use fewer or smaller frames per chunk"
        )


def _starts(mode: str, chunks: Sequence[ChunkSpan]) -> list[int]:
    """Where the chunks begin after an eviction: where they did in "keep", else one after the other without holes."""
    if mode == "keep":
        return [chunk.start for chunk in chunks]
    if mode != "remap":
        return contiguous_from(chunks, chunks[0].start)

    def moved_tokens(starts: list[int]) -> int:
        return sum(chunk.tokens for chunk, start in zip(chunks, starts, strict=True) if start != chunk.start)

    return min(contiguous_up_to(chunks), contiguous_from(chunks, chunks[0].start), key=moved_tokens)
