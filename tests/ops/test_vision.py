"""The vision tower against transformers' own."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP

from kvlib.families.qwen2_5_vl import WindowedTower, feed_forward
from kvlib.lab.report import paths
from kvlib.lab.study import runs
from kvlib.ops import vision
from kvlib.ops.graphs import GraphPool
from kvlib.ops.vision import MAX_GRAPH_PATCHES, MAX_LAYOUTS, VisionGraph

GRIDS = [(1, 4, 6), (2, 10, 20), (3, 18, 8), (1, 2, 2), (2, 8, 8), (1, 24, 34)]


def patches(grid, seed=0) -> torch.Tensor:
    return torch.randn(grid[0] * grid[1] * grid[2], 1176, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_features_are_those_of_transformers(model, grid):
    visual = model.model.visual
    theirs = visual(patches(grid), grid_thw=torch.tensor([grid])).pooler_output
    torch.testing.assert_close(WindowedTower(visual, None)(patches(grid), grid)[0], theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_of_the_reader_too():
    visual = runs.load(str(paths.READER), torch.device("cpu"))[0].model.visual
    grid = (2, 10, 20)
    theirs = visual(patches(grid), grid_thw=torch.tensor([grid])).pooler_output
    torch.testing.assert_close(WindowedTower(visual, None)(patches(grid), grid)[0], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_layout_is_a_rearrangement_in_which_equal_windows_lie_side_by_side(model, grid):
    visual = model.model.visual
    plan = WindowedTower(visual, None).plan(grid, "cpu")
    merged = grid[0] * grid[1] * grid[2] // visual.spatial_merge_unit
    assert sorted(plan.order.tolist()) == list(range(merged))
    assert plan.order[plan.inverse].tolist() == list(range(merged))
    assert sum(count * length for count, length in plan.windows) == merged * visual.spatial_merge_unit
    assert len({length for _, length in plan.windows}) == len(plan.windows)
    assert plan.frames.shape == (grid[0], grid[1] * grid[2])


@torch.no_grad()
def test_temporal_grids_do_not_see_each_other(model):
    tower, grid = WindowedTower(model.model.visual, None), (2, 10, 20)
    both = tower(patches(grid), grid)[0]
    other = torch.cat([patches(grid)[:200], patches(grid, 1)[200:]])
    torch.testing.assert_close(tower(other, grid)[0, :50], both[:50])
    assert not torch.allclose(tower(other, grid)[0, 50:], both[50:])


@torch.no_grad()
def test_a_layout_is_worked_out_once_and_few_are_kept(model, monkeypatch):
    made, plan = [], WindowedTower.plan
    monkeypatch.setattr(WindowedTower, "plan", lambda tower, grid, device: made.append(grid) or plan(tower, grid, device))
    tower, grids = WindowedTower(model.model.visual, None), [(1, 2, 2 + 2 * number) for number in range(MAX_LAYOUTS + 1)]
    for grid in (*grids, *grids[1:]):
        tower(patches(grid), grid)
    assert made == grids
    tower(patches(grids[0]), grids[0])
    assert made == [*grids, grids[0]]


@torch.no_grad()
def test_without_a_pool_nothing_is_captured(model, monkeypatch):
    monkeypatch.setattr(vision, "VisionGraph", lambda *_: pytest.fail("a capture"))
    tower, grid = WindowedTower(model.model.visual, None), (2, 10, 20)
    for seed in range(3):
        tower(patches(grid, seed), grid)


@torch.no_grad()
def test_graphs_are_used_from_the_second_time_on_for_few_patches(model, monkeypatch):
    captured = []

    class Graph:
        nbytes = 1

        def __init__(self, _tower, patches, _plan):
            captured.append(len(patches))

        def __call__(self, patches):
            return "replayed"

    monkeypatch.setattr(vision, "VisionGraph", Graph)
    monkeypatch.setattr(vision, "MAX_GRAPH_PATCHES", 32)
    tower = WindowedTower(model.model.visual, GraphPool())
    for grid, replayed in (((1, 8, 8), [False] * 3), ((1, 4, 8), [False, True, True]), ((1, 8, 4), [False, True, True])):
        assert [isinstance(tower(patches(grid), grid), str) for _ in range(3)] == replayed
    assert captured == [32, 32], "grids of as many patches have graphs of their own"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_captured_grids_give_the_same_features(model, monkeypatch):
    captured = []
    monkeypatch.setattr(vision, "VisionGraph", lambda *a: captured.append(len(a[1])) or VisionGraph(*a))
    tower = WindowedTower(copy.deepcopy(model.model.visual).to("cuda", torch.bfloat16), GraphPool())
    small, other, large = (2, 10, 20), (1, 8, 12), (1, MAX_GRAPH_PATCHES // 32 + 2, 32)
    kept = []
    for seed in range(4):  # in turns, so that one graph could spoil another
        kept += [(grid, seed, tower(patches(grid, seed), grid)) for grid in (small, other, large)]
    assert captured == [400, 96]
    for grid, seed, features in kept:
        expected = WindowedTower(tower.visual, None)(patches(grid, seed), grid).float()
        assert (features.float() - expected).norm() / expected.norm() < 1e-3, (grid, seed)


@pytest.mark.parametrize("width", [24, 27, 31])
@torch.no_grad()
def test_feed_forward_of_any_inner_width(width):
    odd = Qwen2_5_VLMLP(SimpleNamespace(hidden_size=32, intermediate_size=width, hidden_act="silu"), bias=True)
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(feed_forward(odd, hidden), odd(hidden), rtol=1e-5, atol=1e-6)
