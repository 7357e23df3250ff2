"""Synthetic streams: their splits, their seeds and their true answers."""

import pytest

from kvlib.lab.study import synthetic
from kvlib.lab.study.synthetic import Scene, answer, draw_stream


def test_streams_repeat_by_seed_and_differ_between_seeds():
    assert draw_stream(30, 1) == draw_stream(30, 1)
    assert draw_stream(30, 1) != draw_stream(30, 2)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_splits_share_no_line_and_no_layout(split):
    scenes = [scene for seed in range(20) for scene in draw_stream(20, seed, split)]
    lines = [line for scene in scenes for line in scene.text.split("\n") if line]
    assert len(lines) > 300
    assert all(synthetic.is_held_out(line) == (split == "held_out") for line in lines)
    assert all(0 < len(line) <= synthetic.MAX_LINE and line.isascii() and line.isprintable() for line in lines)
    own = synthetic.HELD_OUT_LAYOUTS if split == "held_out" else synthetic.TRAIN_LAYOUTS
    assert {scene.layout for scene in scenes} == set(own)
    assert not set(synthetic.HELD_OUT_LAYOUTS) & set(synthetic.TRAIN_LAYOUTS)


def scene(text, color=None):
    return Scene(text, color, synthetic.dejavu_fonts()[0], "flat", 7)


def test_true_answers():
    stream = [scene("Title"), scene("one", "red"), scene("two\nlines", "blue"), scene("three", "red"), scene("")]
    assert answer(stream, "title") == "Title"
    assert answer(stream[:3], "now") == "two\nlines"
    assert answer(stream, "now") == "No text visible"
    assert answer(stream, "card", "red") == "three"
    assert answer(stream[:3], "card", "red") == "one"
    assert answer(stream, "card", "cyan") == "No cyan card seen"
    assert "Title" in answer(stream, "summary")
    with pytest.raises(ValueError, match="kind='then'"):
        answer(stream, "then")
