"""How the training proceeds over time: the learning rate, the weight of the glyph loss, and what each batch holds."""

import math
import random

from training.settings import DEFAULT, IN_VIEW

GLYPHS_ONLY, RAMP = 0.04, 0.1  # shares of the time: only glyphs up to the first, texts of growing length up to the second
READS = 0.6  # share of exact held-out lines from which on the reader counts as reading, and streams are drawn too
LATEST = 0.3  # share of the time after which streams are drawn in any case
SINGLE = 0.2  # share of batches of single chunks after that
PER_CHUNK = {1: 0.5, 2: 0.2, 3: 0.06, 4: 0.16, 8: 0.08}  # temporal grids of a chunk -> share of the batches of streams
FILLED = (1, 1, 1, 0.7, 0.5, 0.3, 0.15)  # parts of `IN_VIEW` that a stream fills, all equally frequent
STREAMED = 75  # visual tokens of the streams of a batch at most, for each of its clips: what the language model's memory holds
WHOLE = 0.3  # share of the batches of streams of several grids a chunk in which no token is dropped


def learning_rate(step: int, warm_up: int, share: float, peak: float) -> float:
    """Linear warm-up to `peak` over `warm_up` steps, times half a cosine over the share of the time (0 to 1), down to 1%."""
    return peak * min(1, (step + 1) / warm_up) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, share))))


def glyph_weight(share: float) -> float:
    """Weight of the glyph loss: 1 in the first quarter of the time, 0.1 in the second half, linear in between."""
    return min(1.0, max(0.1, 1.0 - 0.9 * (share - 0.25) / 0.25))


def plan(rng: random.Random, share: float, clips: int, reads: bool, grids: dict[tuple[int, int], float]) -> dict:
    """What the next batch of about `clips` different clips holds, as arguments of `draw_batch`, by the share of the time that is
    over. grids: the share of each size.

    First single chunks without questions, then single chunks with texts of growing length, then streams as well. Streams begin
    once the reader `reads`, at the latest at the share `LATEST`.
    """
    grid = rng.choices(list(grids), grids.values())[0]
    if share < GLYPHS_ONLY and not reads:
        return dict(grid=grid, chunks=1, per_chunk=1, count=clips, questions=0)
    if share < RAMP and not reads:
        longest = 6 + round((share - GLYPHS_ONLY) / (RAMP - GLYPHS_ONLY) * 43)
        return dict(grid=DEFAULT, chunks=1, per_chunk=1, count=clips // 2, questions=1, max_text=longest)
    if not (reads or share > LATEST) or rng.random() < SINGLE:
        return dict(grid=grid, chunks=1, per_chunk=1, count=clips, questions=1)
    per_chunk = rng.choices(list(PER_CHUNK), PER_CHUNK.values())[0]
    chunks = max(1, round(IN_VIEW // per_chunk * rng.choice(FILLED)))
    tokens = chunks * per_chunk * grid[0] * grid[1]
    count = max(1, min(clips // (chunks * min(2, per_chunk)), STREAMED * clips // tokens))
    threshold = 0.0 if per_chunk == 1 or rng.random() < WHOLE else math.exp(rng.uniform(math.log(0.012), math.log(0.1)))
    return dict(grid=grid, chunks=chunks, per_chunk=per_chunk, count=count, questions=min(8, 2 + chunks), threshold=threshold)
