"""L3: the most important chunks of the history, and a recent window."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvlib.cache import StreamCache
from kvlib.policies.history import history
from kvlib.policies.scorers import SCORERS
from kvlib.state import ChunkSpan


@dataclass(frozen=True)
class Importance:
    """Forget the chunk of the history with the lowest score, the oldest of equals.

    Scores are taken once, when a chunk arrives, from its own keys and values; `scorer` is a name in `SCORERS`.
    `recent_share` of the window stays whole. Raises ValueError for an unknown scorer.
    """

    scorer: str = "value_norm"
    recent_share: float = 0.5

    def __post_init__(self):
        if self.scorer not in SCORERS:
            raise ValueError(f"scorer={self.scorer!r} is unknown: choose one of {', '.join(SCORERS)}")

    def victim(self, chunks: Sequence[ChunkSpan], sink: int, window: int) -> int:
        candidates = history(chunks, sink, self.recent_share * window)
        return min(candidates, key=lambda i: chunks[i].score, default=sink)

    def score(self, cache: StreamCache, chunks: Sequence[ChunkSpan], inverse_frequencies: torch.Tensor) -> float:
        """The score of the newest of `chunks`, which are all that is stored."""
        return SCORERS[self.scorer](cache, chunks, inverse_frequencies)
