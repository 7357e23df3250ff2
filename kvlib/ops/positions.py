"""M-RoPE positions of a stream, and the rotation that moves cached keys to other positions.

Every token has three positions (t, h, w). Text advances all three together; a video block spreads over them. Both rules
are those of Qwen2-VL (arXiv:2409.12191, section 2.1); how far temporal grids are apart, its family says.
"""

from collections.abc import Sequence

import torch

from kvlib.ops.fused import fused


def text_positions(length: int, start: int) -> torch.Tensor:
    """Positions of `length` text tokens from `start` on: int64 [3, length], t = h = w."""
    return torch.arange(start, start + length).expand(3, -1)


def video_positions(grid: tuple[int, int, int], start: int, time_step: float) -> torch.Tensor:
    """Positions of one video block: int64 [3, T*H*W].

    `grid` is (T temporal grids, H rows, W columns) of *merged* patches; `time_step` is the distance of two temporal grids.
    The product is floored after the multiplication by the grid's index, so that fractional steps keep their order.
    """
    t = (torch.arange(grid[0], dtype=torch.float64) * time_step).floor().long()
    axes = torch.meshgrid(t, torch.arange(grid[1]), torch.arange(grid[2]), indexing="ij")
    return torch.stack(axes).reshape(3, -1) + start


def chunk_positions(
    before: int, grid: tuple[int, int, int], after: int, start: int, time_step: float
) -> tuple[torch.Tensor, int]:
    """Positions of a chunk: `before` text tokens, a video block of merged `grid`, `after` text tokens.

    Returns int64 [3, before + T*H*W + after] and the position of the token that follows. Text after a block begins at one
    past the largest position of the block on any axis (Qwen2-VL, section 2.1).
    """
    head = text_positions(before, start)
    block = video_positions(grid, start + before, time_step)
    stop = int(block.max()) + 1
    return torch.cat([head, block, text_positions(after, stop)], dim=1), stop + after


def stamped_positions(texts: Sequence[int], grid: tuple[int, int, int], start: int) -> tuple[torch.Tensor, int]:
    """As `chunk_positions`, of a chunk whose temporal grids are blocks of their own (Qwen3-VL). texts: numbers of text tokens,
    before each grid and after the last."""
    parts = []
    for text in texts[:-1]:
        head, start = chunk_positions(text, (1, *grid[1:]), 0, start, 1)
        parts.append(head)
    return torch.cat([*parts, text_positions(texts[-1], start)], dim=1), start + texts[-1]


def text_in_front(spread: torch.Tensor) -> int:
    """Text tokens in front of the frames of a chunk, from the positions of its tokens less its start, int64 [3, tokens]; 0 for
    a chunk without two visual tokens of one temporal grid. Text advances the temporal position with every token."""
    same = (spread[0, 1:] == spread[0, :-1]).nonzero()
    return int(same[0]) if len(same) else 0


def rotary_tables(
    rotary, positions: torch.Tensor, dtype: torch.dtype, scaled: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine [1, n, head_dim] of M-RoPE at `positions` int64 [3, n], in `dtype`, on the device of the positions.

    `rotary`: the model's rotary embedding, whose frequencies, sections and scaling (YaRN's attention factor) are used; not
    `scaled`, they are those of a pure rotation, which the opposite angle undoes. Unlike its own forward, which
    multiplies in fp32, the angles are computed in fp64: positions may grow without end and stay exact.
    """
    angles = positions[:, :, None].double() * rotary.inv_freq.to(positions.device).double()
    factor = rotary.attention_scaling if scaled else 1.0
    tables = (rotary.recomposition_frequencies(table[:, None]) for table in (angles.cos(), angles.sin()))
    cos, sin = ((table.float() * factor).to(dtype) for table in tables)
    return cos, sin


def rotate_keys(keys: torch.Tensor, shift: int, inverse_frequencies: torch.Tensor) -> torch.Tensor:
    """Keys as they would be `shift` positions later on all three axes; same shape and dtype as `keys` [..., tokens, head_dim].

    RoPE multiplies a key at position p by the rotation R(p), and R(p + shift) = R(shift) R(p). Because the three axes move
    by the same amount, the sections of M-RoPE share one angle per frequency. Angles in fp64, the product in fp32: one
    rounding to the dtype of `keys` per call, so rotate from a kept original, not from the last result.
    """
    return rotated(keys, *rotation(shift, inverse_frequencies.to(keys.device)))


def rotation(shift: int, inverse_frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine, fp32 [head_dim / 2], of the angles by which `shift` positions turn a key."""
    angles = inverse_frequencies.double() * shift
    return angles.cos().float(), angles.sin().float()


@fused
def rotated(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys [..., tokens, head_dim] rotated by the angles of `rotation`."""
    low, high = keys.float().chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(keys.dtype)


def apply_rope(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys [..., tokens, head_dim] rotated by RoPE's `cos` and `sin` [tokens, head_dim], in fp32; in the dtype of `keys`."""
    low, high = keys.float().chunk(2, dim=-1)
    return (keys.float() * cos.float() + torch.cat([-high, low], dim=-1) * sin.float()).to(keys.dtype)


def undo_rope(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The inverse of `apply_rope`: the rotation by the opposite angle."""
    return apply_rope(keys, cos, -sin)
