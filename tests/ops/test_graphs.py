"""The pool of captured graphs, with stand-ins for the graphs, and who shares it."""

import copy
from types import SimpleNamespace

import pytest
import torch

from kvlib.families.qwen2_5_vl import WindowedTower as TOWER
from kvlib.ops.backbone import backbone_of, captures
from kvlib.ops.graphs import GraphPool


def graph(nbytes: int = 1):
    return SimpleNamespace(nbytes=nbytes)


def test_work_is_known_from_the_second_time_on():
    pool = GraphPool()
    assert [pool.seen(key) for key in (("language", 7), ("vision", 7), ("language", 7), ("vision", 7))] == [
        False,
        False,
        True,
        True,
    ]


def test_a_graph_is_captured_once_and_used_again():
    pool, made = GraphPool(), graph()
    assert pool.take("a", lambda: made) is made
    pool.give("a", made)
    assert pool.take("a", lambda: pytest.fail("a second capture")) is made
    assert pool.take("b", graph) is not made


def test_two_at_a_time_never_get_the_same_graph():
    pool = GraphPool()
    first, second = pool.take("a", graph), pool.take("a", graph)
    assert first is not second
    pool.give("a", first)
    pool.give("a", second)
    again = [pool.take("a", lambda: pytest.fail("a third capture")) for _ in range(2)]
    assert {id(one) for one in again} == {id(first), id(second)}


def test_the_least_recently_used_are_dropped_and_no_more_than_needed():
    pool = GraphPool(max_bytes=10)
    for key in "abc":
        pool.give(key, pool.take(key, lambda: graph(3)))
    pool.give("a", pool.take("a", lambda: pytest.fail("it is there")))  # now "b" is the least recently used
    assert pool.nbytes() == 9
    pool.give("d", graph(3))
    assert pool.nbytes() == 9
    captured = []
    for key in "acd":
        pool.take(key, lambda key=key: captured.append(key))
    assert not captured
    pool.take("b", lambda: captured.append("b"))
    assert captured == ["b"]


def test_graphs_in_use_are_not_counted():
    pool = GraphPool(max_bytes=10)
    pool.give("a", graph(4))
    pool.take("a", graph)
    assert pool.nbytes() == 0


def test_many_keys_are_not_remembered_for_ever():
    pool = GraphPool()
    pool.seen("first")
    for number in range(2000):
        pool.seen(number)
    assert not pool.seen("first")
    assert pool.seen(1999)


def test_engines_on_one_model_share_its_parts_and_a_cpu_captures_nothing(engine, model):
    one, other = engine(), engine()
    assert one.backbone is other.backbone is backbone_of(model, TOWER)
    assert backbone_of(copy.deepcopy(model), TOWER) is not one.backbone
    assert captures(model) == (False, False)
    assert one.backbone.language.graphs is None and one.backbone.vision.graphs is None
    assert one.get_cache_info()["graph_bytes"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_that_moves_to_a_gpu_gets_new_parts(model):
    moved = copy.deepcopy(model)
    before = backbone_of(moved, TOWER)
    moved.to("cuda")
    assert backbone_of(moved, TOWER) is not before and captures(moved) == (True, True)
