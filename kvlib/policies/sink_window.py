"""L1: the sink and the newest chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvlib.state import ChunkSpan


@dataclass(frozen=True)
class SinkWindow:
    """Forget the oldest chunk behind the sink (StreamingLLM, arXiv:2309.17453, in whole chunks)."""

    def victim(self, chunks: Sequence[ChunkSpan], sink: int, window: int) -> int:
        return sink
