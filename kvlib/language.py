"""The language model as the stream needs it: transformers' own weights and results, one layer after the other into the cache.

Nothing of a stream is stored on the model.
"""

from collections.abc import Callable

import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib.fused import add_and_norm, fused, norm

rotate = fused(apply_rotary_pos_emb)


def run(
    language, layers, embeddings: torch.Tensor, positions: torch.Tensor, look: Callable[[torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Append tokens to the cache's `layers`, one for each of the model's: embeddings [1, n, width] at positions int64 [3, n]
    -> states [1, n, width].

    `look` is shown the rotated queries [1, heads, n, head dim] of every layer, in order.
    """
    cos, sin = language.rotary_emb(embeddings, positions[:, None].to(embeddings.device))
    first, *others = (layer.input_layernorm for layer in language.layers)
    hidden = embeddings.to(first.weight.device)
    normed = norm(first, hidden)
    for layer, stored, following in zip(language.layers, layers, (*others, language.norm), strict=True):
        attention, device = layer.self_attn, layer.input_layernorm.weight.device
        hidden, normed, cos, sin = (part.to(device) for part in (hidden, normed, cos, sin))
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        q, k, v = (project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for project in projections)
        q, k = rotate(q, k, cos, sin)
        if look is not None:
            look(q)
        mixed = attention.o_proj(stored.attend(q, k, v).transpose(1, 2).flatten(2))
        hidden, normed = add_and_norm(hidden, mixed, layer.post_attention_layernorm)
        hidden, normed = add_and_norm(hidden, layer.mlp(normed), following)
    return normed
