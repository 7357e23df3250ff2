"""The language model as the stream needs it: transformers' own weights and results, one layer after the other into the cache.

No mask is built for a single token or for flash attention, keys and values are never repeated for their group of query
heads, and nothing of a stream is stored on the model.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb


def run(
    language, cache, embeddings: torch.Tensor, positions: torch.Tensor, look: Callable[[torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Append tokens to `cache`, a `StreamCache`: embeddings [1, n, width] at positions int64 [3, n] -> states [1, n, width].

    `look` is shown the rotated queries [1, heads, n, head dim] of every layer, in order.
    """
    cos, sin = language.rotary_emb(embeddings, positions[:, None].to(embeddings.device))
    hidden = embeddings
    for layer, stored in zip(language.layers, cache.layers, strict=True):
        attention, device = layer.self_attn, layer.input_layernorm.weight.device
        hidden, cos, sin = hidden.to(device), cos.to(device), sin.to(device)
        normed = layer.input_layernorm(hidden)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        q, k, v = (project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for project in projections)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        if look is not None:
            look(q)
        mixed = attend(q, *stored.update(k, v))
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return language.norm(hidden)


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of the last tokens, queries [1, heads, n, head dim], over all keys and values [1, KV heads, tokens, head dim],
    each over those before it and itself; shaped as the queries.

    Flash attention, where the device has it, knows where a chunk stands behind its past and needs no mask. Elsewhere the
    heads that share a key head are laid out as further queries of it, so that no key is repeated.
    """
    (heads, new), total = q.shape[1:3], keys.shape[2]
    groups = heads // keys.shape[1]
    if new > 1 and q.is_cuda and can_use_flash_attention(SDPAParams(q, keys, values, None, 0.0, False, True)):
        return F.scaled_dot_product_attention(q, keys, values, causal_lower_right(new, total), enable_gqa=True)
    visible = None
    if new > 1:
        visible = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new).repeat(groups, 1)
    folded = q.unflatten(1, (-1, groups)).flatten(2, 3)
    mixed = F.scaled_dot_product_attention(folded, keys, values, visible)
    return mixed.unflatten(2, (groups, new)).flatten(1, 2)
