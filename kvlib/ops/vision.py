"""The vision tower as the stream needs it: transformers' own weights and results, without its Python loop over windows.

Patches are put into an order in which windows of equal length lie side by side, so that each length is one batched attention
call; that order and the rotary tables are computed once per grid. On a CUDA device the thousand launches of a small grid are
captured as one graph.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from kvlib.ops.fused import add_and_norm, device_of, fused, is_plain, norm
from kvlib.ops.graphs import GraphPool, capture_graph, pool_bytes

MAX_GRAPH_PATCHES = 4096  # up to which the tower takes as long as its launches, not its work, and a graph needs little memory
MAX_LAYOUTS = 8  # grids whose layouts are kept
ALIGNED = 8  # half-precision numbers in 16 bytes
rotate = fused(apply_rotary_pos_emb_vision)

Grid = tuple[int, int, int]  # temporal grids, rows and columns of patches


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


class VisionTower:
    """Runs `visual`, the vision tower of a Qwen2.5-VL, on one chunk at a time; `graphs` None captures nothing."""

    def __init__(self, visual, graphs: GraphPool | None):
        self.visual, self.graphs = visual, graphs
        self.layout = lru_cache(MAX_LAYOUTS)(lambda grid, device: layout(visual, grid, device))

    def __call__(self, patches: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Features [merged patches, width of the language model] of the patches [patches, channels x frames x height x width]
        of
        one `grid`. A small grid that comes a second time is computed by a CUDA graph."""
        device, weight = device_of(self.visual.patch_embed.proj), self.visual.merger.ln_q.weight
        patches = patches.to(device, weight.dtype)
        plan, key = self.layout(grid, device), ("vision", grid, patches.dtype, weight.data_ptr())
        if self.graphs is None or len(patches) > MAX_GRAPH_PATCHES or not self.graphs.seen(key):
            return self.features(patches, plan)
        graph = self.graphs.take(key, lambda: VisionGraph(self, patches, plan))
        features = graph(patches)
        self.graphs.give(key, graph)
        return features

    def features(self, patches: torch.Tensor, plan: Layout) -> torch.Tensor:
        """As a call does, of patches on the tower's device and in its dtype, launch by launch."""
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
        return merged[plan.inverse.to(merged.device)]


class VisionGraph:
    """What a `VisionTower` does with patches like these of one grid, as one CUDA graph."""

    def __init__(self, tower: VisionTower, patches: torch.Tensor, plan: Layout):
        self.patches, self.plan = patches.clone(), plan  # the graph reads both
        tower.features(self.patches, plan)  # compiles the kernels, which a capture cannot
        self.graph, self.features = capture_graph(lambda: tower.features(self.patches, plan), patches.device)
        self.nbytes = pool_bytes(self.graph.pool()) + self.patches.nbytes

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """The features of `patches`."""
        self.patches.copy_(patches)
        self.graph.replay()
        return self.features.clone()


def embedded(patch_embed, patches: torch.Tensor) -> torch.Tensor:
    """What the patch embedding computes: a convolution that never overlaps, so where its weights may be read, a matrix
    product."""
    if not is_plain(patch_embed.proj, nn.Conv3d):
        return patch_embed(patches)
    return F.linear(patches, patch_embed.proj.weight.flatten(1))


def layout(visual, grid: Grid, device) -> Layout:
    """Work out the `Layout` of a grid."""
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


def window_attention(attention, hidden: torch.Tensor, plan: Layout, whole: bool) -> torch.Tensor:
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


def batched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int) -> torch.Tensor:
    """Attention within each of `count` equal stretches of q, k and v [patches, heads, head dim]."""
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
