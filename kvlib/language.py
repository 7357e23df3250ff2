"""The language model as the stream needs it: transformers' own weights and results, one layer after the other into the cache.

No mask is built for a single token, keys and values are never repeated for their group of query heads, and nothing of a
stream is stored on the model.
"""

import torch
import torch.nn.functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb


def run(language, cache, embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Append tokens to `cache`, a `StreamCache`: embeddings [1, n, width] at positions int64 [3, n] -> states [1, n, width]."""
    cos, sin = language.rotary_emb(embeddings, positions[:, None].to(embeddings.device))
    hidden, new = embeddings, embeddings.shape[1]
    mask = None if new == 1 else causal_mask(new, new + cache.get_seq_length())
    for layer, stored in zip(language.layers, cache.layers, strict=True):
        attention, device = layer.self_attn, layer.input_layernorm.weight.device
        hidden, cos, sin = hidden.to(device), cos.to(device), sin.to(device)
        normed = layer.input_layernorm(hidden)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        q, k, v = (project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for project in projections)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        mixed = attend(q, *stored.update(k, v), mask)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return language.norm(hidden)


def causal_mask(new: int, total: int) -> torch.Tensor:
    """Who sees whom, bool [new, total]: each of the last `new` tokens all before it and itself."""
    return torch.ones(new, total, dtype=torch.bool).tril(total - new)


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention of queries [1, heads, n, head dim] over keys and values [1, KV heads, tokens, head dim]; shaped as the queries.

    The heads that share a key head are laid out as further queries of it, so that every key is read once.
    """
    heads, new = q.shape[1:3]
    groups = heads // keys.shape[1]
    folded = q.unflatten(1, (-1, groups)).flatten(2, 3)
    if mask is not None:
        mask = mask.to(q.device).repeat(groups, 1)
    mixed = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return mixed.unflatten(2, (groups, new)).flatten(1, 2)
