"""The one kernel that is ours: attention of a single token over a long cache, for a recorded step (needs Triton).

Flash-decoding (Dao et al. 2023): the keys are split among the multiprocessors, and the parts merged by the log of their softmax
sums. Each key is read once for all query heads that share it, and where the tokens lie is read on the device, so that a
recorded graph follows the cache as it moves.
"""

import torch
import triton
import triton.language as tl

BLOCK = 64  # keys at a time
ROWS = 16  # the least number of query rows that tensor cores take
SPLITS_PER_CORE = 2  # parts of the keys for each multiprocessor
LOG2_E = 1.4426950408889634


@triton.jit
def _attend_to_split(
    q, keys, values, mixed, sums, keys_from, keys_used, head_stride, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    start, used = tl.load(keys_from), tl.load(keys_used)
    share = tl.cdiv(tl.cdiv(used, BLOCK), splits) * BLOCK
    first = split * share
    last = tl.minimum(first + share, used)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, SIZE)
    at = (head * HEADS + rows)[:, None] * SIZE + columns[None, :]
    queries = tl.load(q + at, mask=rows[:, None] < HEADS, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, SIZE], tl.float32)
    base = head.to(tl.int64) * head_stride + start.to(tl.int64) * SIZE
    for place in range(first, last, BLOCK):
        tokens = place + tl.arange(0, BLOCK)
        inside = tokens < last
        offsets = base + tokens[:, None] * SIZE + columns[None, :]
        k = tl.load(keys + offsets, mask=inside[:, None], other=0.0).to(queries.dtype)
        scores = tl.dot(queries, tl.trans(k)) * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights, fade = tl.exp2(scores - higher[:, None]), tl.exp2(top - higher)
        v = tl.load(values + offsets, mask=inside[:, None], other=0.0).to(queries.dtype)
        total = total * fade + tl.sum(weights, 1)
        found = found * fade[:, None] + tl.dot(weights.to(v.dtype), v)
        top = higher
    part = (head * splits + split) * ROWS + rows
    tl.store(mixed + part[:, None] * SIZE + columns[None, :], found)
    tl.store(sums + part * 2, top)
    tl.store(sums + part * 2 + 1, total)


@triton.jit
def _merge_splits(mixed, sums, out, splits, HEADS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, MOST: tl.constexpr):
    head, row = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    split, columns = tl.arange(0, MOST), tl.arange(0, SIZE)
    there = split < splits
    part = (head * splits + split) * ROWS + row
    top = tl.load(sums + part * 2, mask=there, other=float("-inf"))
    weights = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(weights * tl.load(sums + part * 2 + 1, mask=there, other=0.0), 0)
    parts = tl.load(mixed + part[:, None] * SIZE + columns[None, :], mask=there[:, None], other=0.0)
    merged = tl.sum(parts * weights[:, None], 0) / total
    tl.store(out + tl.program_id(0) * SIZE + columns, merged.to(out.dtype.element_ty))


class OneToken:
    """Attention of one token; holds the memory that the splits write to, so that all layers share it."""

    def __init__(self, heads: int, kv_heads: int, size: int, device: torch.device):
        self.heads, self.kv_heads, self.size = heads, kv_heads, size
        cores = torch.cuda.get_device_properties(device).multi_processor_count
        self.splits = max(1, SPLITS_PER_CORE * cores // kv_heads)
        self.mixed = torch.empty(kv_heads, self.splits, ROWS, size, device=device)
        self.sums = torch.empty(kv_heads, self.splits, ROWS, 2, device=device)

    def __call__(self, q, keys, values, keys_from: torch.Tensor, keys_used: torch.Tensor) -> torch.Tensor:
        """Queries [1, heads, 1, size] over tokens [keys_from, keys_from + keys_used) (int32 [1], on the device) of the buffers
        `keys` and `values` [1, KV heads, capacity, size], in the dtype of the queries or 8 bits; shaped as the queries."""
        group = self.heads // self.kv_heads
        q, out = q.contiguous(), torch.empty(q.shape, device=q.device, dtype=q.dtype)
        _attend_to_split[(self.kv_heads, self.splits)](
            q, keys, values, self.mixed, self.sums, keys_from, keys_used, keys.stride(1), LOG2_E / self.size**0.5,
            HEADS=group, SIZE=self.size, ROWS=ROWS, BLOCK=BLOCK,
        )  # fmt: skip
        most = triton.next_power_of_2(self.splits)
        _merge_splits[(self.heads,)](
            self.mixed, self.sums, out, self.splits, HEADS=group, SIZE=self.size, ROWS=ROWS, MOST=most, num_warps=8
        )
        return out
