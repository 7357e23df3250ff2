"""The language model as the stream needs it: transformers' own weights and results, one layer after the other into the cache.

Nothing of a stream is stored on the model.
"""

from collections.abc import Callable

import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib.fused import fused, norm

rotate = fused(apply_rotary_pos_emb)


def run(
    language, layers, embeddings: torch.Tensor, positions: torch.Tensor, look: Callable[[torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Append tokens to the cache's `layers`, one for each of the model's: embeddings [1, n, width] at positions int64 [3, n]
    -> states [1, n, width].

    `look` is shown the rotated queries [1, heads, n, head dim] of every layer, in order.
    """
    cos, sin = language.rotary_emb(embeddings, positions[:, None].to(embeddings.device))
    hidden = embeddings
    for layer, stored in zip(language.layers, layers, strict=True):
        attention, device = layer.self_attn, layer.input_layernorm.weight.device
        hidden, cos, sin = hidden.to(device), cos.to(device), sin.to(device)
        normed = norm(layer.input_layernorm, hidden)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        q, k, v = (project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for project in projections)
        q, k = rotate(q, k, cos, sin)
        if look is not None:
            look(q)
        mixed = stored.attend(q, k, v)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(norm(layer.post_attention_layernorm, hidden))
    return norm(language.norm, hidden)
