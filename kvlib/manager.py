"""The cache manager: the cache, the record of what is in it, the next position, and snapshots of all three."""

import hashlib
from dataclasses import dataclass, replace

import torch

from kvlib.cache import ChunkSpan, StreamCache
from kvlib.evictor import KVCacheEvictor

QUESTION_ROOM = 512  # tokens kept free behind the stream so that an ordinary question never moves it
SLACK, MOST_SLACK = 0.1, 16384  # of the budget, tokens: one move of the window pays for so many evicted tokens


@dataclass(frozen=True)
class CacheSnapshot:
    """Lengths and records at one moment; holds no key and no value."""

    lengths: tuple[int, ...]
    chunks: tuple[ChunkSpan, ...]
    positions: torch.Tensor
    chunks_seen: int
    seen: int
    next_position: int
    evictor: dict | None
    evictions: int


class KVCacheManager:
    """Owns a stream's `cache` and `evictor` (None = never evict). Keys and values are stored in `kv_dtype`; None = as the model
    computes them.

    `chunks_seen` and `seen` count every chunk and chunk token ever stored, `get_seq_length()` the tokens that are stored now:
    different numbers after the first eviction. `next_position` is the M-RoPE position of the next token, `positions` int64
    [3, stored tokens] where the stored ones stand.
    """

    def __init__(self, layers: int, evictor: KVCacheEvictor | None = None, kv_dtype: torch.dtype | None = None):
        budget = evictor.config.max_cache_tokens if evictor else 0
        self.cache = StreamCache(layers, budget + min(int(budget * SLACK), MOST_SLACK) + QUESTION_ROOM, kv_dtype)
        self.evictor = evictor
        self.chunks: list[ChunkSpan] = []
        self.chunks_seen, self.seen, self.next_position = 0, 0, 0
        self.positions = torch.empty(3, 0, dtype=torch.long)

    def get_seq_length(self) -> int:
        """Tokens stored now."""
        return self.cache.get_seq_length()

    def make_room(self, incoming: int) -> None:
        """Make room for a chunk of `incoming` tokens, and for a question behind it, evicting if the budget demands it.

        Raises ValueError when the chunk can never fit; nothing is changed then.
        """
        if self.evictor is not None:
            self.evictor.check_fits(incoming)
            if self.evictor.should_evict(self.get_seq_length(), incoming):
                before, self.chunks = self.chunks, self.evictor.evict(self.cache, self.chunks, incoming)
                self._move_positions(before)
        self.cache.reserve(incoming + QUESTION_ROOM)

    def track_tokens(self, positions: torch.Tensor, next_position: int, is_new_chunk: bool = True) -> None:
        """Record what a forward has appended: tokens at `positions` int64 [3, n]; `next_position` is the one after them.

        A new chunk gets its `ChunkSpan` and teaches the evictor; other tokens (question, answer) only advance the position.
        """
        if is_new_chunk:
            tokens = positions.shape[1]
            index = self.chunks_seen
            self.chunks = [*self.chunks, ChunkSpan(index, tokens, self.next_position, next_position, self.next_position)]
            self.chunks_seen, self.seen = index + 1, self.seen + tokens
            if self.evictor is not None:
                record = self.evictor.update_chunk_stats if index else self.evictor.set_first_chunk_info
                record(tokens)
                self.chunks[-1] = replace(self.chunks[-1], score=self.evictor.score(self.cache, self.chunks))
        self.positions = torch.cat([self.positions, positions], dim=1)
        self.next_position = next_position

    def take_snapshot(self) -> CacheSnapshot:
        """Remember this moment. Copies no key and no value: what follows is appended behind, and restoring cuts it off."""
        return CacheSnapshot(
            tuple(self.cache.lengths()),
            tuple(self.chunks),
            self.positions,
            self.chunks_seen,
            self.seen,
            self.next_position,
            self.evictor.state() if self.evictor else None,
            self.evictor.total_evictions if self.evictor else 0,
        )

    def restore_snapshot(self, snapshot: CacheSnapshot) -> None:
        """Go back to `snapshot`: cache, record, position and eviction state.

        Raises RuntimeError when an eviction has happened since: what it removed is gone and nothing is changed.
        """
        if self.evictor and self.evictor.total_evictions != snapshot.evictions:
            raise RuntimeError(
                f"{self.evictor.total_evictions - snapshot.evictions} eviction(s) since this snapshot was taken have "
                "removed tokens that it refers to: take a new snapshot"
            )
        for layer, length in zip(self.cache.layers, snapshot.lengths, strict=True):
            layer.truncate(length)
        self.chunks = list(snapshot.chunks)
        self.positions, self.next_position = snapshot.positions, snapshot.next_position
        self.chunks_seen, self.seen = snapshot.chunks_seen, snapshot.seen
        if self.evictor:
            self.evictor.load_state(snapshot.evictor)

    def fingerprint(self) -> str:
        """SHA-256 of every stored key and value and of every record and counter; equal means untouched."""
        digest = hashlib.sha256()
        for layer in self.cache.layers:
            digest.update(repr(layer.get_seq_length()).encode())
            for tensor in (layer.keys, layer.values, *layer.originals.values()):
                if tensor is not None:
                    digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy())
        evictor = self.evictor.state() if self.evictor else None
        digest.update(self.positions.numpy())
        digest.update(repr((self.chunks, self.chunks_seen, self.seen, self.next_position, evictor)).encode())
        return digest.hexdigest()

    def _move_positions(self, before: list[ChunkSpan]) -> None:
        """Cut and shift `positions` as the eviction from `before` to `chunks` has cut and turned the keys."""
        spans = zip(self.positions.split([chunk.tokens for chunk in before], dim=1), before, strict=True)
        old = {chunk.index: part - chunk.start for part, chunk in spans}
        self.positions = torch.cat([old[chunk.index] + chunk.start for chunk in self.chunks], dim=1)
        self.next_position = self.chunks[-1].stop
