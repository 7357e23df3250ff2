"""Why an answer is wrong: where the question looks, and two counterfactuals: what the answer would be without holes in the
positions, and with nothing evicted.

Attention is computed for the question's tokens only, from the cached keys: O(question x cache) per layer, whatever attention
kernel the stream itself uses.
"""

import pandas as pd
import torch

from kvlib.policies.history import history
from kvlib.stream import VideoStreamingInference

REGIONS = ("sink", "history", "recent", "question")
RECENT_SHARE = 0.5  # of the tokens behind the sink: the recent window, as the policies have it


@torch.no_grad()
def attention_by_region(engine: VideoStreamingInference, question: str) -> pd.DataFrame:
    """Where the tokens of `question` look, per layer and head; the engine stays as it was.

    A row per layer, head and region with `share` (of the attention, mean over the question's tokens), `entropy` (of the
    whole distribution, nats, mean over tokens) and `distance` (positions from the question's first token to the nearest key
    of the region; NaN for an empty region).
    """
    manager, layers, rows = engine.cache_manager, engine.model.model.language_model.layers, []
    stored = _labels(manager)
    reach = _distances(manager, stored)

    def add(queries: torch.Tensor, keys: torch.Tensor) -> None:
        layer = len(rows) // (queries.shape[1] * len(REGIONS))
        weights = _weights(queries, keys, layers[layer].self_attn.scaling).cpu()
        labels = torch.cat([stored, torch.full((queries.shape[2],), REGIONS.index("question"))])
        entropy = torch.special.entr(weights).sum(-1).mean(-1)
        for region, name in enumerate(REGIONS):
            share = weights[..., labels == region].sum(-1).mean(-1)
            rows.extend(
                dict(layer=layer, head=h, region=name, share=share[h].item(), entropy=entropy[h].item(), distance=reach[name])
                for h in range(len(share))
            )

    engine.question_logits(question, on_queries=add)
    return pd.DataFrame(rows)


def at_contiguous_positions(engine: VideoStreamingInference) -> VideoStreamingInference:
    """Another engine with the same stored tokens at contiguous positions: keys before the position gap are rotated up to it.

    The engine itself stays as it is; keys and values are copied. Raises ValueError for an engine that stores un-rotated keys or
    never evicts: it has no gaps.
    """
    config = engine.eviction_config
    if config is None or config.position_mode == "unrotated":
        raise ValueError("a stream that never evicts, or stores keys without rotation, has no holes: ask the engine itself")
    other = VideoStreamingInference(
        engine.model, engine.processor, engine.device, config, engine.cache_manager.cache.stored_dtype
    )
    other.cache_manager.current.state = engine.cache_manager.contiguous()
    return other


def explain(right: bool, contiguous_right: bool, full_right: bool) -> str:
    """In words, why an evicting stream's answer is right or wrong.

    right: the stream itself; contiguous_right: the same tokens at contiguous positions (`at_contiguous_positions`);
    full_right: the same positions with nothing evicted. What contiguous positions repair is due to the gap, even where the full
    cache fails as well.
    """
    if right:
        return "right"
    if contiguous_right:
        return "the position gap: the same tokens at contiguous positions give the right answer"
    if full_right:
        return "eviction: what the answer needs is gone"
    return "the model itself: with everything remembered the answer is wrong too"


def _weights(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of queries [1, heads, n, head dim], the last tokens, over all keys [1, KV heads, tokens, head dim]: fp32
    [heads, n, tokens]."""
    heads, new, size = queries.shape[1:]
    grouped = queries[0].float().reshape(keys.shape[1], -1, size)  # KV heads, queries of the group, head dim
    scores = (grouped @ keys[0].float().transpose(-1, -2) * scaling).view(heads, new, -1)
    future = torch.ones(new, new, dtype=torch.bool, device=scores.device).triu(1)
    scores[..., -new:] = scores[..., -new:].masked_fill(future, float("-inf"))
    return scores.softmax(-1)


def _labels(manager) -> torch.Tensor:
    """The place in `REGIONS` of every stored token: int64 [stored tokens]."""
    chunks = manager.chunks
    sink = manager.evictor.sink_chunks if manager.evictor else 1
    behind = sum(chunk.tokens for chunk in chunks[sink:])
    middle = history(chunks, sink, RECENT_SHARE * behind) if len(chunks) > sink else range(sink, sink)
    regions = [0 if place < sink else 1 if place in middle else 2 for place in range(len(chunks))]
    return torch.tensor(regions).repeat_interleave(torch.tensor([chunk.tokens for chunk in chunks]))


def _distances(manager, labels: torch.Tensor) -> dict[str, float]:
    """From the question's first token to the nearest key of each region, in positions; the question's own is 0."""
    positions, distances = manager.positions.amax(0), {"question": 0.0}
    for region, name in enumerate(REGIONS[:-1]):
        found = positions[labels[: len(positions)] == region]
        distances[name] = float(manager.next_position - found.max()) if len(found) else float("nan")
    return distances
