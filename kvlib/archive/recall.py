"""Recall: archived chunks stand in the cache again for one question, between the sink and what follows it.

Attention does not depend on where keys lie in memory, only on the positions that they are rotated to. So the chunks are
written behind the stream, into the question's own tail, and nothing of the stream is moved. They stand at contiguous
positions, in order of time, up to the first chunk behind the sink. For that the sink must stand further in front: the tail
gets a copy of it there, and the sink itself is hidden from the question."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kvlib.archive.archive import Archive
from kvlib.archive.chunks import ArchivedChunk, computed_states
from kvlib.cache import Tail
from kvlib.evictor import EvictionConfig, contiguous_from
from kvlib.manager import KVCacheManager
from kvlib.ops.positions import rotary_tables, rotation, undo_rope
from kvlib.ops.storage import saturating_cast
from kvlib.state import StreamState
from kvlib.steps import ROTATED_AT_ONCE, rerotated_keys

AUTO = "auto"
# "auto" takes chunks that get so many times an even share of the attention, and this part of what the best one gets. Measured
# with the embedded reader (6 streams of 48 chunks and 3 of 200, 63 cards): the right chunk gets 6 to 35 times an even share.
# The best one of a question about what is on screen, or about the title, gets at most 3.0 times, that of a card never shown
# mostly more.
EVEN, BEST = 3.0, 0.5


def with_recall(config: EvictionConfig | None, archive: str | Path | None) -> EvictionConfig | None:
    """The configuration of a stream with this `archive`: a quarter of the budget is kept free for recall unless it says how
    much."""
    if config is None or config.recall_tokens or archive is None:
        return config
    free = config.max_cache_tokens - config.sink_size - config.window_size
    return replace(config, recall_tokens=min(config.max_cache_tokens // 4, free))


class LastQueries:
    """Collects, as `on_queries` of a question's forward, the queries of its last token. `start`: position of its first one."""

    def __init__(self, rotary, start: int):
        self.rotary, self.start, self.queries = rotary, start, []

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        self.queries.append(queries[0, :, -1].float())
        self.position = self.start + queries.shape[2] - 1

    def without_rotation(self) -> torch.Tensor:
        """fp32 [layers, heads, head dim]."""
        device = self.queries[0].device
        queries, position = torch.stack([part.to(device) for part in self.queries]), torch.full((3, 1), self.position)
        tables = rotary_tables(self.rotary, position.to(device), torch.float32, scaled=False)
        return undo_rope(queries, *(table[0] for table in tables))


def check_recall(recall, archive: Archive | None, state: StreamState) -> None:
    """Raise ValueError for a `recall` that cannot be used."""
    count = isinstance(recall, int) and not isinstance(recall, bool) and recall >= 0
    numbers = isinstance(recall, Sequence) and not isinstance(recall, str)
    if not count and not numbers and recall != AUTO:
        raise ValueError(f"recall={recall!r}: give a number of chunks, {AUTO!r}, or the numbers of chunks in a list")
    if recall and archive is None:
        raise ValueError(f"recall={recall!r} needs an archive: make the engine with archive='memory' or a folder")
    if numbers:
        missing = set(recall) - {chunk.span.index for chunk in state.archived}
        if missing:
            raise ValueError(f"recall={recall!r}: {sorted(missing)} are not in the archive; it may have dropped them")


def choose(
    manager: KVCacheManager, rotary, recall: int | str | Sequence[int], read: Callable[[LastQueries], object]
) -> tuple[list[ArchivedChunk], list[dict]]:
    """The chunks to bring back, in order of time, and for each `index`, `time_s`, and the `share` of the attention that it gets
    among all evicted chunks.

    recall: how many at most; "auto" = those that stand out, see `EVEN` and `BEST`; or their numbers. As many as fit into
    `recall_tokens` of the budget are taken, those with the largest shares first. `read(last)` puts the question through the
    model and shows `last` its queries. Raises ValueError when not even one chunk fits.
    """
    state = manager.state
    evicted = state.evicted
    if not evicted or not recall:
        return [], []
    last = LastQueries(rotary, manager.next_position)
    read(last)
    shares = manager.archive.index.shares(last.without_rotation(), evicted)  # largest first
    wanted, room = _wanted(recall, shares), state.config.recall_tokens
    taken = []
    for chunk in map(evicted.get, wanted):
        if chunk.span.tokens <= room:
            room -= chunk.span.tokens
            taken.append(chunk)
    if wanted and not taken:
        least = min(evicted[number].span.tokens for number in wanted)
        raise ValueError(f"no chunk fits into recall_tokens={room}: give the EvictionConfig recall_tokens of at least {least}")
    taken.sort(key=lambda chunk: chunk.span.index)
    return taken, [dict(index=c.span.index, time_s=c.span.time_s, share=shares[c.span.index]) for c in taken]


def _wanted(recall: int | str | Sequence[int], shares: dict[int, float]) -> list[int]:
    """The numbers of the chunks that `recall` means, those with the largest shares first."""
    if recall == AUTO:
        least = max(min(EVEN / len(shares), BEST), BEST * max(shares.values()))
        return [number for number, share in shares.items() if share >= least]
    return [*shares][:recall] if isinstance(recall, int) else [number for number in shares if number in recall]


def bring_back(manager: KVCacheManager, tail: Tail, chunks: Sequence[ArchivedChunk], rotary) -> None:
    """Write `chunks`, given in order of time, to a new `tail`, as if they stood between the sink and what follows it."""
    state = manager.state
    sink, others = state.chunks[: state.counts.sink_chunks], state.chunks[state.counts.sink_chunks :]
    spans = (*sink, *(chunk.span for chunk in chunks))
    end = others[0].start if others else state.next_position
    starts = contiguous_from(spans, end - sum(span.stop - span.start for span in spans))
    recalled = sum(chunk.span.tokens for chunk in chunks)
    if state.config.position_mode == "unrotated":
        manager.cache.reserve(recalled, tail)
        for chunk in chunks:
            write(tail, (chunk.load(),))
        spreads = [*state.spread, *(chunk.spread for chunk in chunks)]
        firsts = [*starts[: len(sink)], *(chunk.start for chunk in others), *starts[len(sink) :]]
        positions = torch.cat([spread + first for spread, first in zip(spreads, firsts, strict=True)], dim=1)
        device = tail.buffers[0].device
        tail.rope = tuple(
            table[0] for table in rotary_tables(rotary, positions.to(device), tail.buffers[0].dtype, scaled=False)
        )
        return
    hidden = sum(span.tokens for span in sink)
    manager.cache.reserve(recalled + hidden, tail)
    for place, (span, start) in enumerate(zip(spans, starts, strict=True)):
        parts = computed_states(manager.state, place) if place < len(sink) else (chunks[place - len(sink)].load(),)
        write(tail, parts, rotation(start - span.origin, rotary.inv_freq))
    tail.hide(hidden)


def write(tail: Tail, parts: Sequence[torch.Tensor], angles: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
    """Write states [layers, 2, KV heads, n, head dim], in parts of some layers each, behind what is in `tail`, with their keys
    rotated by `angles` as of `rotation`. They count as tokens in front of the next position."""
    layer, tokens = 0, parts[0].shape[3]
    for part in parts:
        for states in part.split(max(1, ROTATED_AT_ONCE // part[0, 0].numel())):
            buffers = tail.buffers[layer : layer + len(states)]
            device = buffers[0].device
            states = states.to(device, non_blocking=True)
            keys = states[:, 0] if angles is None else rerotated_keys(states[:, 0], *(part.to(device) for part in angles))
            for buffer, *new in zip(buffers, keys, states[:, 1], strict=True):
                for stored, layer_states in zip(buffer, new, strict=True):
                    stored[0, :, tail.stop : tail.stop + tokens] = saturating_cast(layer_states.to(buffer.device), buffer.dtype)
            layer += len(states)
    tail.advance(tokens, tail.next_position)
