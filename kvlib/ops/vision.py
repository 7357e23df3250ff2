"""Vision towers as the stream needs them: transformers' own weights and results, with as few launches as possible.

What depends on the grid alone is computed once per grid. On a CUDA device the thousand launches of a small grid are captured as
one graph.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from kvlib.ops.fused import add_and_norm, device_of, fused, is_plain, norm
from kvlib.ops.graphs import GraphPool, capture_graph, pool_bytes

MAX_GRAPH_PATCHES = 4096  # up to which the tower takes as long as its launches, not its work, and a graph needs little memory
MAX_LAYOUTS = 8  # grids whose plans are kept
rotate = fused(apply_rotary_pos_emb_vision)

Grid = tuple[int, int, int]  # temporal grids, rows and columns of patches


class VisionTower:
    """Runs `visual`, a vision tower, on one chunk at a time; `graphs` None captures nothing.

    A family's tower has the methods `plan(grid, device)`, for what depends on the grid alone, and `features(patches, plan)`:
    what a call gives, of patches on the tower's device and in its dtype, launch by launch.
    """

    def __init__(self, visual, graphs: GraphPool | None):
        self.visual, self.graphs = visual, graphs
        self.planned = lru_cache(MAX_LAYOUTS)(self.plan)

    def __call__(self, patches: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Features [parts, merged patches, width of the language model] of the patches [patches, channels x frames x height x
        width] of one `grid`; the first part becomes tokens, the others are added behind the first layers of the language model.
        A small grid that comes a second time is computed by a CUDA graph."""
        device, weight = device_of(self.visual.patch_embed.proj), self.visual.blocks[0].norm1.weight
        patches = patches.to(device, weight.dtype)
        plan, key = self.planned(grid, device), ("vision", grid, patches.dtype, weight.data_ptr())
        if self.graphs is None or len(patches) > MAX_GRAPH_PATCHES or not self.graphs.seen(key):
            return self.features(patches, plan)
        graph = self.graphs.take(key, lambda: VisionGraph(self, patches, plan))
        features = graph(patches)
        self.graphs.give(key, graph)
        return features


@dataclass(frozen=True)
class Plan:
    """Of a grid: cos, sin fp32 [patches, head dim]; `count` of its temporal grids; the positions [patches, width] that are
    added to the embedded patches, None for none."""

    cos: torch.Tensor
    sin: torch.Tensor
    count: int
    positions: torch.Tensor | None


class GridTower(VisionTower):
    """A tower all of whose layers attend within a temporal grid: one batched attention call for all grids of a chunk.

    A family's tower has the methods `last_norm()`, the norm after the last block, and `merge(normed)`, from that norm's result
    to features; it may have `place` and `tap`.
    """

    def plan(self, grid: Grid, device) -> Plan:
        positions = get_vision_position_ids(torch.tensor([grid]), self.visual.spatial_merge_size)
        rotary = self.visual.rotary_pos_emb
        tables = rotary(torch.empty(0, device=rotary.inv_freq.device), positions.to(rotary.inv_freq.device))
        cos, sin = (table.float().to(device) for table in tables)
        return Plan(cos, sin, grid[0], self.place(grid, device))

    def features(self, patches: torch.Tensor, plan: Plan) -> torch.Tensor:
        visual, taps = self.visual, []
        hidden = embedded(visual.patch_embed, patches)
        if plan.positions is not None:
            hidden = hidden + plan.positions.to(hidden.dtype)
        first, *others = (block.norm1 for block in visual.blocks)
        hidden = hidden.to(device_of(first))
        normed = norm(first, hidden)
        for number, (block, following) in enumerate(zip(visual.blocks, (*others, self.last_norm()), strict=True)):
            hidden, normed = (part.to(device_of(block.norm1)) for part in (hidden, normed))
            q, k, v = heads_of(block.attn, normed, plan.cos, plan.sin)
            mixed = block.attn.proj(batched(q, k, v, plan.count).flatten(1))
            hidden, normed = add_and_norm(hidden, mixed, block.norm2)
            hidden, normed = add_and_norm(hidden, block.mlp(normed), following)
            taps.append(self.tap(number, hidden))
        parts = [self.merge(normed), *(tap for tap in taps if tap is not None)]
        return torch.stack([part.to(parts[0].device) for part in parts])

    def place(self, grid: Grid, device) -> torch.Tensor | None:
        """Positions [patches, width] that are added to the embedded patches of a grid."""
        return None

    def tap(self, number: int, hidden: torch.Tensor) -> torch.Tensor | None:
        """A further part of the features, of the states [patches, width] after the block `number`."""
        return None


class VisionGraph:
    """What a `VisionTower` does with patches like these of one grid, as one CUDA graph."""

    def __init__(self, tower: VisionTower, patches: torch.Tensor, plan):
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
    return F.linear(patches, patch_embed.proj.weight.flatten(1), patch_embed.proj.bias)


def heads_of(attention, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rotated queries and keys, and values, [patches, heads, head dim] each, of hidden [patches, width]."""
    q, k, v = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, attention.head_dim)).unbind(1)
    return *rotate(q, k, cos.to(q.device), sin.to(q.device)), v


def batched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int) -> torch.Tensor:
    """Attention within each of `count` equal stretches of q, k and v [patches, heads, head dim]."""
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
