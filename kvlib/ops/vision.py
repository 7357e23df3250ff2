"""The vision tower as the stream needs it: transformers' own weights and results, without its Python loop over windows.

Patches are put into an order in which windows of equal length lie side by side, so that each length is one batched attention
call; that order and the rotary tables are worked out once per grid. The patch embedding, a convolution that never
overlaps, is a matrix product. On a CUDA device a small grid's thousand launches are recorded as one graph.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from kvlib.ops.fused import add_and_norm, fused, norm, on_one_gpu, record, recorded

FEW = 4096  # patches up to which the tower takes as long as its launches, not its work, and a recording needs little memory
GRIDS = 4  # for which recordings are kept: each holds what the tower needs while it runs
ALIGNED = 8  # half-precision numbers in 16 bytes
rotate = fused(apply_rotary_pos_emb_vision)

Grid = tuple[int, int, int]  # temporal grids, rows and columns of patches


@dataclass(frozen=True)
class Layout:
    """Where the patches of a grid go. order, inverse: int64 [cells], of merged cells, to the order of windows and back;
    cos, sin: fp32 [patches, head dim] in that order; windows: (count, length) of equal windows, in patches, as they follow one
    another; frames: int64 [temporal grids, patches of one], the patches of each temporal grid."""

    order: torch.Tensor
    inverse: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    windows: list[tuple[int, int]]
    frames: torch.Tensor


class VisionTower:
    """Runs `visual`, the vision tower of a Qwen2.5-VL, on one chunk at a time; nothing is stored on the model."""

    def __init__(self, visual):
        self.visual, self.layouts, self.recordings = visual, {}, {}
        self.can_record = on_one_gpu(visual)

    def __call__(self, patches: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Features [cells, width of the language model] of the patches [patches, channels x frames x height x width] of one
        `grid`."""
        weight = self.visual.patch_embed.proj.weight
        patches = patches.to(weight.device, weight.dtype)
        if grid not in self.layouts:
            self.layouts[grid] = layout(self.visual, grid, weight.device)
        elif self.can_record and len(patches) <= FEW:  # a grid that comes back: a stream's, not a single picture's
            return recorded(self.recordings, grid, lambda: Recording(self, patches, self.layouts[grid]), GRIDS)(patches)
        return self.features(patches, self.layouts[grid])

    def features(self, patches: torch.Tensor, plan: Layout) -> torch.Tensor:
        """As a call does, of patches on the tower's device and in its dtype, launch by launch."""
        visual = self.visual
        weight, unit = visual.patch_embed.proj.weight, visual.spatial_merge_unit
        hidden = F.linear(patches, weight.flatten(1))
        hidden = hidden.unflatten(0, (-1, unit))[plan.order].flatten(0, 1)
        first, *others = (block.norm1 for block in visual.blocks)
        hidden = hidden.to(first.weight.device)
        normed = norm(first, hidden)
        for number, (block, following) in enumerate(zip(visual.blocks, (*others, visual.merger.ln_q), strict=True)):
            hidden, normed = (part.to(block.norm1.weight.device) for part in (hidden, normed))
            whole = number in visual.fullatt_block_indexes
            hidden, normed = add_and_norm(hidden, attend(block.attn, normed, plan, whole), block.norm2)
            hidden, normed = add_and_norm(hidden, feed_forward(block.mlp, normed), following)
        merged = visual.merger.mlp(normed.unflatten(0, (-1, unit)).flatten(1))
        return merged[plan.inverse.to(merged.device)]


class Recording:
    """What a `VisionTower` does with patches like these of one grid, as one CUDA graph."""

    def __init__(self, tower: VisionTower, patches: torch.Tensor, plan: Layout):
        self.patches = patches.clone()
        self.replay, self.features = record(lambda: tower.features(self.patches, plan), patches.device)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """The features of `patches`."""
        self.patches.copy_(patches)
        self.replay()
        return self.features.clone()


def layout(visual, grid: Grid, device) -> Layout:
    """Work out the `Layout` of a grid."""
    thw, unit = torch.tensor([grid]), visual.spatial_merge_unit
    cells, ends = get_vision_window_index(
        thw, spatial_merge_size=visual.spatial_merge_size, window_size=visual.window_size, patch_size=visual.patch_size
    )
    windows = cells.split((ends.diff() // unit).tolist())
    windows = sorted((window for window in windows if len(window)), key=len, reverse=True)
    order = torch.cat(windows)
    lengths = torch.tensor([unit * len(window) for window in windows]).unique_consecutive(return_counts=True)
    positions = get_vision_position_ids(thw, visual.spatial_merge_size)
    rotary = visual.rotary_pos_emb
    tables = rotary(torch.empty(0, device=rotary.inv_freq.device), positions.to(rotary.inv_freq.device))
    cos, sin = (table.float().unflatten(0, (-1, unit))[order.to(table.device)].flatten(0, 1) for table in tables)
    inverse = order.argsort()
    patches = (inverse[:, None] * unit + torch.arange(unit)).flatten()  # where the patches have gone
    return Layout(
        order.to(device),
        inverse.to(device),
        cos.to(device),
        sin.to(device),
        [(count, length) for length, count in zip(*(part.tolist() for part in lengths), strict=True)],
        patches.view(grid[0], -1).to(device),
    )


def attend(attention, hidden: torch.Tensor, plan: Layout, whole: bool) -> torch.Tensor:
    """Attention [patches, width] of every patch over its window, or over its `whole` temporal grid."""
    q, k, v = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, attention.head_dim)).unbind(1)
    q, k = rotate(q, k, plan.cos.to(q.device), plan.sin.to(q.device))
    if whole and len(plan.frames) > 1:
        frames = plan.frames.to(q.device)
        mixed = torch.empty_like(q)
        mixed[frames.flatten()] = batched(*(x[frames.flatten()] for x in (q, k, v)), len(frames))
    elif whole:
        mixed = batched(q, k, v, 1)
    else:
        sizes = [count * length for count, length in plan.windows]
        parts = zip(*(x.split(sizes) for x in (q, k, v)), plan.windows, strict=True)
        mixed = torch.cat([batched(*part, count) for *part, (count, _) in parts])
    return attention.proj(mixed.flatten(1))


def feed_forward(mlp, hidden: torch.Tensor) -> torch.Tensor:
    """What transformers' `mlp` computes of hidden [patches, width].

    Its inner width, 3420 in the published models, is padded with zeros to rows of whole 16 bytes, which fast matrix products
    on a GPU need. The padded weights are made anew each time: that costs little, and keeping them much memory.
    """
    short = -mlp.gate_proj.out_features % ALIGNED
    inner = mlp.gate_proj, mlp.up_proj
    gate, up = (F.linear(hidden, widened(part.weight, 0, short), widened(part.bias, 0, short)) for part in inner)
    return F.linear(gated(gate, up), widened(mlp.down_proj.weight, 1, short), mlp.down_proj.bias)


def widened(weight: torch.Tensor, dimension: int, more: int) -> torch.Tensor:
    """`weight` with `more` zeros at the end of one of its dimensions."""
    after = weight.ndim - 1 - dimension
    return F.pad(weight, (0, 0) * after + (0, more)) if more else weight


@fused
def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def batched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int) -> torch.Tensor:
    """Attention within each of `count` equal stretches of q, k and v [patches, heads, head dim]."""
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
