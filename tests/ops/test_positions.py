"""Positions against transformers' one-shot `get_rope_index` and against an oracle written out by hand."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib.ops.positions import apply_rope, chunk_positions, rotary_tables, rotate_keys, undo_rope


def stream_positions(chunks, time_step):
    """Our positions of a stream of (before, grid, after) chunks, one after the other."""
    parts, start = [], 0
    for before, grid, after in chunks:
        part, start = chunk_positions(before, grid, after, start, time_step)
        parts.append(part)
    return torch.cat(parts, dim=1), start


def one_shot_positions(model, chunks, seconds_per_grid):
    types = torch.cat([torch.tensor([0] * b + [2] * (t * h * w) + [0] * a) for b, (t, h, w), a in chunks])[None]
    grids = torch.tensor([[t, 2 * h, 2 * w] for _, (t, h, w), _ in chunks])
    positions, _ = model.model.get_rope_index(
        torch.zeros_like(types),
        mm_token_type_ids=types,
        video_grid_thw=grids,
        second_per_grid_ts=torch.full((len(chunks),), seconds_per_grid),
    )
    return positions[:, 0]


sides = st.integers(1, 9)
grids = st.tuples(st.integers(1, 4), sides, sides)


@given(st.lists(st.tuples(sides, grids, sides), min_size=1, max_size=4), st.sampled_from([1.0, 2.0]))
def test_positions_equal_get_rope_index(model_once, chunks, seconds_per_grid):
    # transformers 5.17 lets the text that follows a block ignore the block's extent in time, see the test further below
    assume(all((t - 1) * 2 * seconds_per_grid < max(h, w) for _, (t, h, w), _ in chunks))
    ours, _ = stream_positions(chunks, time_step=2 * seconds_per_grid)
    assert torch.equal(ours, one_shot_positions(model_once, chunks, seconds_per_grid))


@pytest.fixture(scope="module")
def model_once(model):
    return model


def test_positions_by_hand():
    positions, following = chunk_positions(2, (2, 1, 2), 1, start=10, time_step=1.5)
    assert positions.tolist() == [
        [10, 11, 12, 12, 13, 13, 14],
        [10, 11, 12, 12, 12, 12, 14],
        [10, 11, 12, 13, 12, 13, 14],
    ]
    assert following == 15


def test_text_follows_a_long_block_behind_its_last_moment():
    """Eight grids two positions apart reach 14 past the start: the next text stands at 15, though the frame is 2 wide."""
    positions, following = chunk_positions(0, (8, 1, 2), 1, start=0, time_step=2)
    assert positions[0].max() == positions[1, -1] == 15
    assert following == 16


@pytest.mark.parametrize(
    ("time_step", "times"),
    [(1.0, [0, 1, 2, 3, 4]), (1.5, [0, 1, 3, 4, 6]), (0.5, [0, 0, 1, 1, 2]), (2 / 3, [0, 0, 1, 2, 2]), (2.9, [0, 2, 5, 8, 11])],
)
def test_a_fractional_step_is_rounded_down_after_it_is_multiplied(time_step, times):
    positions, following = chunk_positions(0, (5, 1, 1), 0, start=7, time_step=time_step)
    assert positions[0].tolist() == [7 + time for time in times]
    assert following == 7 + times[-1] + 1


@given(st.integers(-500, 500))
def test_rotated_key_equals_key_computed_at_the_later_position(model_once, shift):
    rotary = model_once.model.language_model.rotary_emb
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(1, 2, 5, 16, generator=generator)
    positions = torch.randint(500, 700, (3, 1, 5), generator=generator)

    def rope(at):
        return apply_rotary_pos_emb(raw, raw, *rotary(raw, at))[1]

    torch.testing.assert_close(rotate_keys(rope(positions), shift, rotary.inv_freq), rope(positions + shift), rtol=0, atol=2e-4)


@given(st.integers(0, 3000))
def test_tables_are_those_of_transformers(model_once, start):
    rotary = model_once.model.language_model.rotary_emb
    positions = start + torch.randint(0, 90, (3, 11), generator=torch.Generator().manual_seed(start))
    expected = rotary(torch.zeros(1), positions[:, None])
    keys = torch.randn(1, 2, 11, 16, generator=torch.Generator().manual_seed(2))
    found = rotary_tables(rotary, positions, torch.float32)
    theirs, ours = (apply_rotary_pos_emb(keys, keys, *tables)[1] for tables in (expected, found))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)  # transformers multiplies the angles in fp32


@pytest.mark.parametrize("position", [5, 2**17 + 3, 2**24 + 1, 2**31 + 7])
def test_tables_stay_exact_at_any_position(model_once, position):
    """fp32 cannot tell 2**24 + 1 from 2**24. Python's own floats are the reference."""
    rotary = model_once.model.language_model.rotary_emb
    cos, sin = rotary_tables(rotary, torch.full((3, 1), position), torch.float32)
    angles = [position * float(frequency) for frequency in rotary.inv_freq]
    assert cos[0, 0].tolist() == pytest.approx([math.cos(angle) for angle in angles] * 2, abs=1e-6)
    assert sin[0, 0].tolist() == pytest.approx([math.sin(angle) for angle in angles] * 2, abs=1e-6)


def test_a_rotation_is_undone_also_where_the_model_scales_its_tables(model_once, monkeypatch):
    """YaRN multiplies cosine and sine by a factor: only tables without it are a rotation."""
    rotary = model_once.model.language_model.rotary_emb
    monkeypatch.setattr(rotary, "attention_scaling", 1.3)
    keys, positions = torch.randn(1, 2, 6, 16), torch.arange(40, 46).expand(3, -1)
    (cos, sin), (scaled, _) = (rotary_tables(rotary, positions, torch.float32, scaled) for scaled in (False, True))
    torch.testing.assert_close(scaled, 1.3 * cos)
    torch.testing.assert_close(undo_rope(apply_rope(keys, cos[0], sin[0]), cos[0], sin[0]), keys, rtol=1e-5, atol=1e-5)
