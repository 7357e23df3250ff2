"""How the training proceeds over time: the learning rate, the weight of the glyph loss, and what each batch holds."""

import math
import random

from training.sizes import GRIDS

GLYPHS_ONLY, RAMP = 0.05, 0.12  # shares of the time: only glyphs up to the first, texts of growing length up to the second
READS = 0.6  # share of exact held-out lines from which on the reader counts as reading, and streams are drawn too
LATEST = 0.3  # share of the time after which streams are drawn in any case


def learning_rate(step: int, share: float, peak: float) -> float:
    """Linear warm-up to `peak` over 300 steps, times half a cosine over the share of the time (0 to 1), down to 1%."""
    return peak * min(1, (step + 1) / 300) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, share))))


def glyph_weight(share: float) -> float:
    """Weight of the glyph loss: 1 in the first quarter of the time, 0.1 in the second half, linear in between."""
    return min(1.0, max(0.1, 1.0 - 0.9 * (share - 0.25) / 0.25))


def plan(rng: random.Random, share: float, clips: int, reads: bool) -> dict:
    """What the next batch of about `clips` clips holds, as arguments of `draw_batch`, by the share of the time that is over.

    First single chunks without questions, then single chunks with texts of growing length, then streams as well. Streams begin
    once the reader `reads`, at the latest at the share `LATEST`.
    """
    grid = GRIDS[0] if rng.random() < 0.75 else rng.choice(GRIDS[1:])
    if share < GLYPHS_ONLY and not reads:
        return dict(grid=grid, chunks=1, per_chunk=1, count=clips, questions=0)
    if share < RAMP and not reads:
        longest = 6 + round((share - GLYPHS_ONLY) / (RAMP - GLYPHS_ONLY) * 43)
        return dict(grid=GRIDS[0], chunks=1, per_chunk=1, count=clips // 2, questions=1, max_text=longest)
    if not (reads or share > LATEST) or rng.random() < 0.25:
        return dict(grid=grid, chunks=1, per_chunk=1, count=clips, questions=1)
    if rng.random() < 0.15:
        chunks = rng.choice([1, 2, 4, 8])
        return dict(grid=grid, chunks=chunks, per_chunk=2, count=max(1, clips // (2 * chunks)), questions=min(6, 2 + chunks))
    chunks = rng.choice([2, 4, 8, 12, 16, 16])
    return dict(grid=grid, chunks=chunks, per_chunk=1, count=max(1, clips // chunks), questions=min(8, 2 + chunks))
