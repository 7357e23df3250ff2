"""Positions against transformers' one-shot `get_rope_index` and against an oracle written out by hand."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from kvlib.ops.positions import chunk_positions, rotate_keys


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


def test_fractional_steps_keep_frames_apart():
    positions, _ = chunk_positions(0, (4, 1, 1), 0, start=0, time_step=1.0)  # 4 frames per second
    assert positions[0].tolist() == [0, 1, 2, 3]


@given(st.integers(-500, 500))
def test_rotated_key_equals_key_computed_at_the_later_position(model_once, shift):
    rotary = model_once.model.language_model.rotary_emb
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(1, 2, 5, 16, generator=generator)
    positions = torch.randint(500, 700, (3, 1, 5), generator=generator)

    def rope(at):
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

        return apply_rotary_pos_emb(raw, raw, *rotary(raw, at))[1]

    torch.testing.assert_close(rotate_keys(rope(positions), shift, rotary.inv_freq), rope(positions + shift), rtol=0, atol=2e-4)
