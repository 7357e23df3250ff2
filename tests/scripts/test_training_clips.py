"""What the reader trains on: clips, their texts, the rings that hold them, and streams with questions."""

import random
import sys

import numpy as np
import pytest

from kvlib.lab.report import paths
from kvlib.lab.study import synthetic

sys.path.insert(0, str(paths.ROOT / "data"))

from training.clips import rings, texts  # noqa: E402
from training.settings import BLOCK, SHOT  # noqa: E402
from training.streams import batches  # noqa: E402

GRID = (4, 8)  # of the clips of `block`


def test_clips_show_their_texts_where_their_centres_say(block):
    clips, meta = block
    assert clips.shape == (48, 2, 3, 28 * GRID[0], 28 * GRID[1]) and clips.dtype == np.uint8
    for text, _, centres in meta:
        assert len(centres) == len(text)
        drawn = np.array([at for at, c in zip(centres, text, strict=True) if c not in " \n"])
        assert not len(drawn) or (drawn.min() > 0 and drawn.max() < 1)
    assert any(not text for text, *_ in meta), "some scenes are blank"


def test_a_shot_keeps_its_background_and_place(block):
    clips, meta = block
    shots = clips[:, 1].reshape(-1, SHOT, *clips.shape[2:]).astype(float)
    changes = np.abs(shots[:, 1:] - shots[:, :-1]).mean((2, 3, 4)).mean(1)
    across = np.abs(shots[1:, 0] - shots[:-1, 0]).mean((1, 2, 3))
    assert np.median(changes) < np.median(across) / 3
    for shot in range(0, BLOCK, SHOT):
        assert len({color for _, color, _ in meta[shot : shot + SHOT]}) == 1


def test_texts_to_train_on_are_none_that_are_held_out():
    rng = random.Random(0)
    drawn = [texts.draw_text(rng, "train", 24) for _ in range(400)]
    drawn += [texts.draw_next(rng, text, "train", 24) for text in drawn]
    lines = [line for text in drawn for line in text.split("\n")]
    assert not any(map(synthetic.is_held_out, lines)) and max(map(len, lines)) <= 24 and "" not in lines
    assert all(line == line.strip() and line.isprintable() and line.isascii() for line in lines)
    kept = sum(text.split("\n")[0] == after.split("\n")[0] for text, after in zip(drawn[:400], drawn[400:], strict=True))
    assert 40 < kept < 200, "often one of two lines stays"


def test_lookalikes_are_swapped_for_each_other():
    rng = random.Random(0)
    found = {texts.tangle(rng, "l0rn m") for _ in range(200)}
    assert len(found) > 20 and {text[0] for text in found} >= {"l", "I", "1", "i"}


@pytest.mark.parametrize("per_chunk", [2, 3, 4, 8])
def test_a_chunk_shows_scenes_one_after_the_other(ring, per_chunk):
    rng, usable = random.Random(0), ring.usable()
    chunks = [batches.draw_chunk(rng, usable, per_chunk) for _ in range(200)]
    assert {len(chunk) for chunk in chunks} == {per_chunk}
    assert max(len(set(chunk)) for chunk in chunks) == min(per_chunk, SHOT)
    assert any(len(set(chunk)) == 1 for chunk in chunks)
    one_shot = [len({clip // SHOT for clip in chunk}) == 1 for chunk in chunks if len(set(chunk)) > 1]
    assert 0.6 < np.mean(one_shot) < 0.95


def test_answers_about_a_stream_follow_its_scenes():
    """One text per grid; "now" is the last grid of the chunk, "past" that of an earlier chunk, the title the very first."""
    told = [(f"text {number}", number % 8) for number in range(12)]  # four chunks of three grids
    for chunk, kind, question, answer in batches.draw_branches(random.Random(0), told, 3, 300):
        last = 3 * chunk + 2
        if kind == "now":
            assert answer == f"text {last}"
        elif kind == "title":
            assert answer == "text 0"
        elif kind == "past":
            ago = int(question.split()[-3])
            assert 2 <= ago <= chunk and answer == f"text {last - 3 * ago}"
        elif kind == "card":
            color = next(name for name in synthetic.COLORS if name in question)
            shown = [n for n in range(last + 1) if n % 8 == list(synthetic.COLORS).index(color)]
            assert answer == (f"text {shown[-1]}" if shown else f"No {color} card seen")


def test_a_full_ring_keeps_the_newest_clips_and_spares_those_that_are_next(block):
    clips, meta = block
    ring = rings.Ring(GRID, 150, "cpu")
    assert len(ring.usable()) == 0 and len(ring.texts) == 144
    for number in range(4):
        ring.add(np.full_like(clips, number), [(f"{number}", -1, [[0.5, 0.25]])] * BLOCK)
    assert [ring.texts[at] for at in (0, 47, 48, 95, 143)] == ["3", "3", "1", "1", "2"], "the fourth replaces the first"
    assert ring.clips[0].eq(3).all() and ring.clips[48].eq(1).all()
    assert ring.glyphs[0, 0].tolist() == [0.0, -0.5, ord("3") - 32]
    assert set(range(48, 96)).isdisjoint(ring.usable()), "the next block is written from 48 on"
    assert len(ring.usable()) % SHOT == 0
