"""The vision tower against transformers' own."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP

from kvlib.lab.report import paths
from kvlib.lab.study import experiments
from kvlib.ops import vision
from kvlib.ops.vision import FEW, VisionTower, feed_forward, layout

GRIDS = [(1, 4, 6), (2, 10, 20), (3, 18, 8), (1, 2, 2), (2, 8, 8), (1, 24, 34)]


def patches(grid, seed=0) -> torch.Tensor:
    return torch.randn(grid[0] * grid[1] * grid[2], 1176, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_features_are_those_of_transformers(model, grid):
    visual = model.model.visual
    theirs = visual(patches(grid), grid_thw=torch.tensor([grid])).pooler_output
    torch.testing.assert_close(VisionTower(visual)(patches(grid), grid), theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_of_the_reader_too():
    visual = experiments.load(str(paths.READER), torch.device("cpu"))[0].model.visual
    grid = (2, 10, 20)
    theirs = visual(patches(grid), grid_thw=torch.tensor([grid])).pooler_output
    torch.testing.assert_close(VisionTower(visual)(patches(grid), grid), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_layout_is_a_rearrangement_in_which_equal_windows_lie_side_by_side(model, grid):
    visual = model.model.visual
    plan = layout(visual, grid, "cpu")
    cells = grid[0] * grid[1] * grid[2] // visual.spatial_merge_unit
    assert sorted(plan.order.tolist()) == list(range(cells))
    assert plan.order[plan.inverse].tolist() == list(range(cells))
    assert sum(count * length for count, length in plan.windows) == cells * visual.spatial_merge_unit
    assert len({length for _, length in plan.windows}) == len(plan.windows)
    assert plan.frames.shape == (grid[0], grid[1] * grid[2])


@torch.no_grad()
def test_a_grid_is_worked_out_once_and_frames_do_not_see_each_other(model):
    tower, grid = VisionTower(model.model.visual), (2, 10, 20)
    both = tower(patches(grid), grid)
    other = torch.cat([patches(grid)[:200], patches(grid, 1)[200:]])
    torch.testing.assert_close(tower(other, grid)[:50], both[:50])
    assert not torch.allclose(tower(other, grid)[50:], both[50:])
    assert list(tower.layouts) == [grid]


@torch.no_grad()
def test_a_cpu_records_nothing(model):
    tower, grid = VisionTower(model.model.visual), (2, 10, 20)
    for seed in range(3):
        tower(patches(grid, seed), grid)
    assert not tower.recordings


@torch.no_grad()
def test_recordings_are_made_the_second_time_and_the_oldest_forgotten(model, monkeypatch):
    made = []
    monkeypatch.setattr(
        vision, "Recording", lambda tower, patches, plan: made.append(len(patches)) or (lambda patches: "replayed")
    )
    tower, grids = VisionTower(model.model.visual), [(1, 4, 4 + 2 * i) for i in range(vision.GRIDS + 1)]
    tower.can_record = True
    monkeypatch.setattr(vision, "FEW", 60)
    assert all(tower(patches((1, 8, 8)), (1, 8, 8)) != "replayed" for _ in range(2)), "many patches are not recorded"
    for grid in grids:
        assert tower(patches(grid), grid) != "replayed" and not made
    for _ in range(2):
        assert tower(patches(grids[0]), grids[0]) == "replayed" and made == [16]
    for grid in grids:
        tower(patches(grid), grid)
    assert list(tower.recordings) == grids[1:] and len(made) == len(grids)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_a_small_grid_that_comes_back_is_recorded_and_gives_the_same_features(model):
    tower = VisionTower(copy.deepcopy(model.model.visual).to("cuda", torch.bfloat16))
    small, other, large = (2, 10, 20), (1, 8, 12), (1, FEW // 32 + 2, 32)
    kept = []
    for seed in range(4):  # in turns, so that one recording could spoil another
        kept += [(grid, seed, tower(patches(grid, seed), grid)) for grid in (small, other, large)]
    assert set(tower.recordings) == {small, other}
    for grid, seed, features in kept:
        expected = VisionTower(tower.visual)(patches(grid, seed), grid).float()
        assert (features.float() - expected).norm() / expected.norm() < 1e-3, (grid, seed)


@pytest.mark.parametrize("width", [24, 27, 31])
@torch.no_grad()
def test_feed_forward_of_any_inner_width(width):
    odd = Qwen2_5_VLMLP(SimpleNamespace(hidden_size=32, intermediate_size=width, hidden_act="silu"), bias=True)
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(feed_forward(odd, hidden), odd(hidden), rtol=1e-5, atol=1e-6)
