"""Where the recent window ends and the history begins, for the policies that treat them differently."""

from collections.abc import Sequence

from kvlib.state import ChunkSpan


def history(chunks: Sequence[ChunkSpan], sink: int, recent_tokens: float) -> range:
    """Indices of the chunks between the sink and the recent window: the newest chunk, and those before it that fit with it
    into `recent_tokens`."""
    first, tokens = len(chunks) - 1, chunks[-1].tokens
    while first > sink and tokens + chunks[first - 1].tokens <= recent_tokens:
        first -= 1
        tokens += chunks[first].tokens
    return range(sink, first)
