"""One block of the vision tower and one layer of the language model, for batches of equal grids."""

import torch
import torch.nn.functional as F


def rotate(x, cos, sin):
    """Rotary embedding of x [..., d] in fp32, with sines from `signed`. Rolling by half compiles to one kernel, which splitting
    and concatenating does not."""
    x, dtype = x.float(), x.dtype
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(dtype)


def signed(sin):
    """The sines [..., d] with the first half negated, as `rotate` expects them."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[..., :half], sin[..., half:]], -1)


def vision_block(block, hidden, cos, sin, mask):
    """A block of the vision tower for equal grids: hidden [N, patches, d], mask bool [patches, patches] or None for full
    attention."""
    heads, size = block.attn.num_heads, block.attn.head_dim  # the compiler takes these for constants
    qk, v = block.attn.qkv(block.norm1(hidden)).split([2 * heads * size, heads * size], -1)
    q, k = rotate(qk.unflatten(-1, (2 * heads, size)), cos, sin).transpose(1, 2).split([heads, heads], 1)
    v = v.unflatten(-1, (heads, size)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    hidden = hidden + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    return hidden + block.mlp(block.norm2(hidden))


def text_block(layer, hidden, cos, sin, mask):
    """A layer of the language model: hidden [B, L, d], mask bool [B, 1, L, L] or None for causal attention."""
    attention, x = layer.self_attn, layer.input_layernorm(hidden)
    size, groups = attention.head_dim, attention.num_key_value_groups
    q, k, v = (p(x).unflatten(-1, (-1, size)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k, v = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)
    if mask is not None:  # the kernels that take a mask need as many key heads as query heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=mask is None)
    hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def branch_mask(branch: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Attention mask, bool [B, 1, L, L]: a token attends to itself and earlier tokens of its branch, and to the stream up to
    its limit. branch and limit int64 [B, L] as in `Packer.batch`."""
    order = torch.arange(branch.shape[1], device=branch.device)
    same = branch[:, :, None] == branch[:, None]
    visible = (branch[:, None] == 0) & (order[None, None] < limit[:, :, None])
    return ((order[:, None] >= order[None]) & (same | visible))[:, None]
