"""Qwen2.5-VL (arXiv:2502.13923): absolute time, and a vision tower most of whose layers attend within windows of 112 pixels.

Patches are put into an order in which windows of equal length lie side by side, so that each length is one batched attention
call instead of one call a window; that order and the rotary tables are computed once per grid.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from kvlib.families.family import Family, VisionShape
from kvlib.ops.fused import add_and_norm, device_of, fused, is_plain, norm
from kvlib.ops.pixels import resize_each
from kvlib.ops.vision import Grid, VisionTower, batched, embedded, heads_of

ALIGNED = 8  # half-precision numbers in 16 bytes


@dataclass(frozen=True)
class Layout:
    """Where the patches of a grid go. order, inverse: int64 [merged patches], to the order of windows and back;
    cos, sin: fp32 [patches, head dim] in that order; windows: (count, length) of equal windows, in patches, as they follow one
    another; frames: int64 [temporal grids, patches of one], the patches of each temporal grid."""

    order: torch.Tensor
    inverse: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    windows: list[tuple[int, int]]
    frames: torch.Tensor


class WindowedTower(VisionTower):
    """The vision tower of Qwen2.5-VL, without transformers' Python loop over windows."""

    def plan(self, grid: Grid, device) -> Layout:
        """Work out the `Layout` of a grid."""
        visual = self.visual
        thw, unit = torch.tensor([grid]), visual.spatial_merge_unit
        merged, ends = get_vision_window_index(
            thw, spatial_merge_size=visual.spatial_merge_size, window_size=visual.window_size, patch_size=visual.patch_size
        )
        windows = merged.split((ends.diff() // unit).tolist())
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

    def features(self, patches: torch.Tensor, plan: Layout) -> torch.Tensor:
        visual, unit = self.visual, self.visual.spatial_merge_unit
        hidden = embedded(visual.patch_embed, patches)
        hidden = hidden.unflatten(0, (-1, unit))[plan.order].flatten(0, 1)
        first, *others = (block.norm1 for block in visual.blocks)
        hidden = hidden.to(device_of(first))
        normed = norm(first, hidden)
        for number, (block, following) in enumerate(zip(visual.blocks, (*others, visual.merger.ln_q), strict=True)):
            hidden, normed = (part.to(device_of(block.norm1)) for part in (hidden, normed))
            whole = number in visual.fullatt_block_indexes
            hidden, normed = add_and_norm(hidden, window_attention(block.attn, normed, plan, whole), block.norm2)
            hidden, normed = add_and_norm(hidden, feed_forward(block.mlp, normed), following)
        merged = visual.merger.mlp(normed.unflatten(0, (-1, unit)).flatten(1))
        return merged[plan.inverse.to(merged.device)][None]


def window_attention(attention, hidden: torch.Tensor, plan: Layout, whole: bool) -> torch.Tensor:
    """Attention [patches, width] of every patch over its window, or over its `whole` temporal grid."""
    q, k, v = heads_of(attention, hidden, plan.cos, plan.sin)
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
    on a GPU need. The padded weights are made anew each time: that costs little, and keeping them much memory. Adapters and
    quantized layers are called as they are.
    """
    if not all(is_plain(layer) for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)):
        return mlp(hidden)
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


def time_step(config, seconds: float) -> float:
    """`tokens_per_second` positions a second (section 2.1.1)."""
    return config.vision_config.tokens_per_second * seconds


def vision_shape(vision) -> VisionShape:
    whole, window = len(vision.fullatt_block_indexes), (vision.window_size // vision.patch_size) ** 2
    return VisionShape(vision.hidden_size, 3 * vision.intermediate_size, vision.out_hidden_size, whole, window)


QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    name="Qwen2.5-VL",
    model_class="Qwen2_5_VLForConditionalGeneration",
    tower=WindowedTower,
    time_step=time_step,
    pixel_limits=(56 * 56, 28 * 28 * 1280),
    resize=resize_each,
    vision_shape=vision_shape,
    two_blocks={"fullatt_block_indexes": [1]},
)
