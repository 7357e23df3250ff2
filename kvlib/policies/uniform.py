"""L2: a history thinned to even spacing in time, and a recent window."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvlib.policies.history import history
from kvlib.state import ChunkSpan


@dataclass(frozen=True)
class Uniform:
    """Forget the chunk of the history whose neighbours in time are closest together, the oldest of equals.

    The length of the stream is not known, so spacing is evened out as it ages: dropping where the gap that results is
    smallest keeps the largest gap below about twice the smallest. `recent_share` of the window stays whole.
    """

    recent_share: float = 0.5

    def victim(self, chunks: Sequence[ChunkSpan], sink: int, window: int) -> int:
        candidates = history(chunks, sink, self.recent_share * window)
        return min(candidates, key=lambda i: chunks[i + 1].index - chunks[i - 1].index, default=sink)
