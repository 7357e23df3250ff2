"""Attention of new tokens over the cache, by the fastest kernel that the device has; no mask on a GPU, no key repeated.

A chunk sees all of its past, and of itself what came before. On a GPU these are two calls, one without a mask and one causal,
merged by the log of their softmax sums as flash-decoding merges its splits (Dao et al. 2023). cuDNN's kernel, the fastest for a
long past, cannot apply a causal mask to the last tokens only.
"""

import torch
import torch.nn.functional as F
from torch.backends.cuda import SDPAParams, can_use_flash_attention

from kvlib.ops.fused import fused

MIN_CUDNN_QUERIES = 256  # from which on cuDNN's kernel is worth its plan
CUDNN_QUERIES, CUDNN_KEYS = 256, 4096  # lengths are multiples of these: cuDNN plans anew, for 46 ms, for every pair of lengths
HOPPER = (9, 0)  # compute capability from which on cuDNN's kernel is the faster one


def chunk_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of the last tokens, queries [1, heads, n, head dim], over all keys and values [1, KV heads, tokens, head dim],
    each over those before it and itself; shaped as the queries, in their dtype."""
    new, past = q.shape[2], keys.shape[2] - q.shape[2]
    if new == 1:
        return unfold(F.scaled_dot_product_attention(fold(q, keys), keys, values), q)
    if not has_flash(q, keys, values):
        visible = torch.ones(new, past + new, dtype=torch.bool, device=q.device).tril(past)
        visible = visible.repeat(q.shape[1] // keys.shape[1], 1)
        return unfold(F.scaled_dot_product_attention(fold(q, keys), keys, values, visible), q)
    apart = past // CUDNN_KEYS * CUDNN_KEYS if uses_cudnn(q) else past  # keys that need no mask; the others go with the chunk
    own = flash(q, keys[:, :, apart:], values[:, :, apart:], causal=True)
    if not apart:
        return own[0]
    return merge(*over_past(q, keys[:, :, :apart], values[:, :, :apart]), *own)


def has_flash(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether the device has flash attention for such tensors."""
    return q.is_cuda and can_use_flash_attention(SDPAParams(q, keys, values, None, 0.0, False, True))


def uses_cudnn(q: torch.Tensor) -> bool:
    """Whether cuDNN's kernel computes the attention of queries [1, heads, n, head dim] over a past, on a device with flash
    attention."""
    return q.is_cuda and q.shape[2] >= MIN_CUDNN_QUERIES and torch.cuda.get_device_capability(q.device) >= HOPPER


def over_past(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of all queries over all keys, and its log-sum-exp fp32 [1, heads, n]."""
    if uses_cudnn(q):
        new = q.shape[2]
        q = F.pad(q, (0, 0, 0, -new % CUDNN_QUERIES))
        mixed, sums, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, keys, values, None, True)
        return mixed[:, :, :new], sums.view(q.shape[:3])[:, :, :new]
    mixed, sums = flash(fold(q, keys), keys, values)
    return unfold(mixed, q), sums.view(q.shape[:3])


def flash(q, keys, values, causal: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Flash attention and its log-sum-exp; `causal` aligns the last query with the last key."""
    mixed, sums, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, keys, values, 0.0, causal)
    return mixed, sums


@fused
def merge(mixed, sums, others, other_sums) -> torch.Tensor:
    """Attention over two sets of keys together, of the attention over each [..., n, head dim] and its log-sum-exp [..., n]."""
    share = torch.sigmoid(sums - other_sums)[..., None]
    return (mixed.float() * share + others.float() * (1 - share)).to(mixed.dtype)


def fold(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The heads that share a key head laid out as further queries of it: [1, KV heads, heads / KV heads * n, head dim]."""
    return q.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)


def unfold(mixed: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The inverse of `fold`, shaped as the queries `q`."""
    return mixed.unflatten(2, (-1, q.shape[2])).flatten(1, 2)
