"""Batches of streams with questions, drawn from a ring of clips."""

import random

import numpy as np
import torch

from kvlib.lab.study import synthetic
from training.clips.rings import Ring
from training.settings import SHOT
from training.streams.packer import Packer

PHRASED = 0.6  # share of the questions in the wording that the workbook uses
KINDS = {"now": 0.28, "title": 0.22, "card": 0.4, "summary": 0.05, "past": 0.05}
LAST = 0.3  # share of the questions that are asked at the end of the stream
ONE_SHOT = 0.75  # share of chunks of several grids that show one shot
NAMES = list(synthetic.COLORS)


def draw_batch(
    packer: Packer, ring: Ring, rng, grid, chunks: int, per_chunk: int, count: int, questions: int, max_text=None, threshold=0.0
) -> dict:
    """A batch of `count` streams of `chunks` chunks of `per_chunk` temporal grids, with `questions` questions each, drawn from
    `ring`: the arrays of `Packer.batch`, and

    clips [U]: the different clips, as indices of the ring; shots [U]: the number of the shot that each belongs to;
    order [count, chunks * per_chunk]: for each temporal grid the index of its clip in `clips`.

    `max_text` limits the length of the texts, in characters. With `questions` = 0 no questions are packed. `threshold` is for
    the trainer (`Trainer.dropped`).
    """
    usable = ring.usable()
    if max_text is not None:
        usable = usable[ring.lengths[usable] <= max_text]
    picks = draw_picks(rng, ring, usable, chunks, per_chunk, count)
    clips, order = np.unique(picks, return_inverse=True)
    _, shots = np.unique(clips // SHOT, return_inverse=True)
    drawn = dict(
        clips=torch.from_numpy(clips), shots=torch.from_numpy(shots), order=torch.from_numpy(order.reshape(picks.shape))
    )
    if not questions:
        return drawn | {"kinds": []}
    prefix = packer.prefix(grid, chunks, per_chunk, 2 if per_chunk == 1 else rng.choice([2, 2, 2, 1, 4]))
    streams = []
    for row in picks.tolist():
        scenes = [(ring.texts[i], int(ring.colors[i])) for i in row]
        if questions == 1:
            question = draw_question(rng, "now") if max_text is None else rng.choice(synthetic.QUESTIONS["now"][1:])
            branches = [(chunks - 1, "now", question, scenes[-1][0] or synthetic.BLANK_ANSWER)]
        else:
            branches = draw_branches(rng, scenes, per_chunk, questions)
        streams.append(dict(prefix=prefix, branches=branches))
    return packer.batch(streams) | drawn


def draw_picks(rng: random.Random, ring: Ring, usable: np.ndarray, chunks: int, per_chunk: int, count: int) -> np.ndarray:
    """Indices int64 [count, chunks * per_chunk] of clips for the temporal grids of `count` streams. A stream of several grids
    never begins with a blank screen: its first text is the title."""
    if per_chunk == 1:
        picks = usable[np.random.default_rng(rng.getrandbits(32)).integers(0, len(usable), (count, chunks))]
        for row in picks if chunks > 1 else []:
            while not ring.texts[row[0]]:
                row[0] = usable[rng.randrange(len(usable))]
        return picks
    rows = []
    for _ in range(count):
        row = draw_chunk(rng, usable, per_chunk)
        while not ring.texts[row[0]]:
            row = draw_chunk(rng, usable, per_chunk)
        for _ in range(chunks - 1):
            row += draw_chunk(rng, usable, per_chunk)
        rows.append(row)
    return np.array(rows)


def draw_chunk(rng: random.Random, usable: np.ndarray, per_chunk: int) -> list[int]:
    """Clips for the `per_chunk` temporal grids of a chunk: one to four scenes, most often of one shot, each shown for one grid
    or more."""
    scenes = min(per_chunk, rng.choice([1, 1, 2, 2, 3, 4]))
    if rng.random() < ONE_SHOT:
        first = usable[rng.randrange(len(usable))] // SHOT * SHOT + rng.randrange(SHOT - scenes + 1)
        clips = list(range(first, first + scenes))
    else:
        clips = [int(usable[rng.randrange(len(usable))]) for _ in range(scenes)]
    cuts = [0, *sorted(rng.sample(range(1, per_chunk), scenes - 1)), per_chunk]
    return [clip for clip, begin, end in zip(clips, cuts[:-1], cuts[1:], strict=True) for _ in range(end - begin)]


def draw_branches(rng: random.Random, scenes: list[tuple[str, int]], per_chunk: int, count: int) -> list[tuple]:
    """`count` random questions about a stream: [(chunk index, kind, question, answer)].

    scenes: (text, colour index or -1) of each temporal grid; a chunk has `per_chunk` of them.
    """
    chunks, branches = len(scenes) // per_chunk, []
    for _ in range(count):
        chunk = chunks - 1 if rng.random() < LAST else rng.randrange(chunks)
        seen = scenes[: (chunk + 1) * per_chunk]
        kind = rng.choices(list(KINDS), KINDS.values())[0]
        if kind == "past" and chunk < 2:
            kind = "now"
        if kind == "past":
            ago = rng.randint(2, min(chunk, synthetic.MAX_AGO))
            text = seen[-1 - ago * per_chunk][0] or synthetic.BLANK_ANSWER
            branches.append((chunk, kind, synthetic.PAST_QUESTION.format(ago=ago), text))
            continue
        color = None
        if kind == "card":
            shown = sorted({c for _, c in seen if c >= 0})
            color = NAMES[rng.choice(shown)] if shown and rng.random() < 0.85 else rng.choice(NAMES)
        told = [synthetic.Scene(text, NAMES[c] if c >= 0 else None, "", "", 0) for text, c in seen]
        branches.append((chunk, kind, draw_question(rng, kind, color), synthetic.answer(told, kind, color)))
    return branches


def draw_question(rng: random.Random, kind: str, color: str | None = None) -> str:
    """A phrasing of the question: the one that the workbook uses with probability `PHRASED`, else a random one."""
    asked = synthetic.QUESTIONS[kind]
    return (asked[0] if rng.random() < PHRASED else rng.choice(asked)).format(color=color)
