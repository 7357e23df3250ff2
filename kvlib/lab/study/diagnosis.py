"""Why an answer is wrong: where the question looks, and what it would have answered in two other worlds.

Attention is computed for the question's tokens only, from the cached keys: O(question x cache) per layer, whatever attention
kernel the stream itself uses.
"""

from contextlib import contextmanager

import pandas as pd
import torch

from kvlib.evictor import to_back
from kvlib.ops.positions import apply_rope
from kvlib.policies.history import history

REGIONS = ("sink", "history", "recent", "question")
RECENT_SHARE = 0.5  # of the tokens behind the sink: the recent window, as the policies have it


@torch.no_grad()
def attention_by_region(engine, question: str) -> pd.DataFrame:
    """Where the tokens of `question` look, per layer and head; the engine is afterwards as it was.

    A row per layer, head and region with `share` (of the attention, mean over the question's tokens), `entropy` (of the
    whole distribution, nats, mean over tokens) and `distance` (positions from the question's first token to the nearest key
    of the region; NaN for an empty region).
    """
    manager, language = engine.cache_manager, engine.model.model.language_model
    tokens = engine._tokens(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    labels = torch.cat([_labels(manager), torch.full((tokens.shape[1],), REGIONS.index("question"))])
    reach = _distances(manager, labels)
    snapshot, asked, rows = manager.take_snapshot(), [], []
    try:
        engine._step(tokens, asked.append)
        for number, (queries, stored) in enumerate(zip(asked, manager.cache.layers, strict=True)):
            weights = _weights(queries, stored, language.layers[number].self_attn.scaling).cpu()
            entropy = torch.special.entr(weights).sum(-1).mean(-1)
            for region, name in enumerate(REGIONS):
                share = weights[..., labels == region].sum(-1).mean(-1)
                rows += [
                    dict(
                        layer=number,
                        head=h,
                        region=name,
                        share=share[h].item(),
                        entropy=entropy[h].item(),
                        distance=reach[name],
                    )
                    for h in range(len(share))
                ]
    finally:
        manager.restore_snapshot(snapshot)
    return pd.DataFrame(rows)


@contextmanager
def contiguous_positions(engine):
    """Inside, the engine's survivors stand without holes, whatever its position mode; afterwards exactly as before.

    The counterfactual "the same tokens at contiguous positions": keys in front of a hole are turned up to it. Copies the
    keys for the time being. Raises ValueError for an engine that stores un-rotated keys: it has no holes.
    """
    manager = engine.cache_manager
    if engine.eviction_config is not None and engine.eviction_config.position_mode == "unrotated":
        raise ValueError("position_mode='unrotated' has no holes to close: ask the engine itself")
    chunks, positions = manager.chunks, manager.positions
    held = [(layer.keys.clone(), dict(layer.originals)) for layer in manager.cache.layers]
    starts = to_back(chunks)
    try:
        manager.cache.turn(chunks, starts, engine.model.model.language_model.rotary_emb.inv_freq)
        shifts = [start - chunk.start for chunk, start in zip(chunks, starts, strict=True)]
        parts = positions.split([chunk.tokens for chunk in chunks], dim=1)
        manager.positions = torch.cat([part + shift for part, shift in zip(parts, shifts, strict=True)], dim=1)
        yield engine
    finally:
        manager.positions = positions
        for layer, (keys, originals) in zip(manager.cache.layers, held, strict=True):
            layer.keys.copy_(keys)
            layer.originals = originals


def explain(right: bool, contiguous_right: bool, full_right: bool) -> str:
    """In words, why an evicting stream's answer is right or wrong.

    right: the stream itself; contiguous_right: the same tokens at contiguous positions (`contiguous_positions`);
    full_right: the same positions with nothing evicted. What contiguous positions repair is the gap's, even where the full
    cache fails as well.
    """
    if right:
        return "right"
    if contiguous_right:
        return "the position gap: the same tokens at contiguous positions give the right answer"
    if full_right:
        return "eviction: what the answer needs is gone"
    return "the model itself: with everything remembered the answer is wrong too"


def _weights(queries: torch.Tensor, layer, scaling: float) -> torch.Tensor:
    """Attention of queries [1, heads, n, head dim], the last of the layer's tokens, over all keys: fp32 [heads, n, tokens]."""
    keys = layer.keys if layer.rope is None else apply_rope(layer.keys, *layer.rope)
    heads, new, size = queries.shape[1:]
    grouped = queries[0].float().reshape(keys.shape[1], -1, size)  # KV heads, queries of the group, head dim
    scores = (grouped @ keys[0].float().transpose(-1, -2) * scaling).view(heads, new, -1)
    future = torch.ones(new, new, dtype=torch.bool, device=scores.device).triu(1)
    scores[..., -new:] = scores[..., -new:].masked_fill(future, float("-inf"))
    return scores.softmax(-1)


def _labels(manager) -> torch.Tensor:
    """The place in `REGIONS` of every stored token: int64 [stored tokens]."""
    chunks = manager.chunks
    sink = manager.evictor._sink_chunks if manager.evictor else 1
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
