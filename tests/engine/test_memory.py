"""Memory: engines and tails are freed at once, answers give their room back, graphs are bounded."""

import gc
import weakref

import pytest
import torch

from kvlib import EvictionConfig, KVCacheManager, VideoStreamingInference
from kvlib.ops.graphs import GraphPool
from kvlib.prompts import question_tokens


@pytest.fixture
def no_garbage_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_an_engine_and_a_failed_chunk_are_freed_without_the_garbage_collector(
    engine, model, frames, monkeypatch, no_garbage_collector
):
    """Cycles would keep gigabytes of buffers alive for a while."""
    streamed, tails, make_tail = engine(EvictionConfig(110)), [], KVCacheManager.tail

    def tail(manager):
        tails.append(weakref.ref(made := make_tail(manager)))
        return made

    monkeypatch.setattr(KVCacheManager, "tail", tail)
    for seed in range(8):
        streamed.append_video_chunk(frames(2, seed))
    streamed.ask("What?", max_new_tokens=4)
    assert len(tails) == 9
    assert [reference() for reference in tails] == [None] * 9
    buffers = [weakref.ref(buffer) for buffer in streamed.cache_manager.state.buffers]
    del streamed
    assert [buffer() for buffer in buffers] == [None] * len(buffers)


@pytest.mark.parametrize("budget", [None, 110])
def test_room_for_an_answer_grows_with_it_and_is_given_back(engine, frames, monkeypatch, budget):
    streamed = engine(EvictionConfig(budget) if budget else None)
    for seed in range(8):
        streamed.append_video_chunk(frames(2, seed))
    monkeypatch.setattr("kvlib.stream.stop_tokens", lambda *_: set())
    held = streamed.get_cache_info()["cache_bytes"]
    before, capacity = streamed.cache_manager.fingerprint(), streamed.cache_manager.state.room()
    seen = []
    watched = streamed._step
    monkeypatch.setattr(streamed, "_step", lambda *a, **k: seen.append(streamed.cache_manager.state.room()) or watched(*a, **k))
    short = streamed.ask("What?", max_new_tokens=5, do_sample=False)[0]
    monkeypatch.setattr("kvlib.stream.stop_tokens", lambda *_: set(range(1000)))
    streamed.ask("What?", max_new_tokens=10**6, do_sample=False)
    assert set(seen) == {capacity}, "a short answer needs no more room, however long it may be"
    monkeypatch.setattr("kvlib.stream.stop_tokens", lambda *_: set())
    long = streamed.ask("What?", max_new_tokens=1200, do_sample=False)
    assert long[1]["new_tokens"] == 1200
    assert capacity < max(seen) <= capacity + 1536
    assert len(set(seen)) > 2, "in steps"
    assert streamed.get_cache_info()["cache_bytes"] == held
    assert streamed.cache_manager.fingerprint() == before
    assert streamed.ask("What?", max_new_tokens=5, do_sample=False)[0] == short


def test_a_grown_answer_equals_one_in_a_large_buffer(engine, frames, monkeypatch):
    """Moved and copied in the middle of an answer, the tokens go on as they would have."""
    small, large = engine(EvictionConfig(300)), engine(EvictionConfig(20_000))
    for seed in range(5):
        for streamed in (small, large):
            streamed.append_video_chunk(frames(2, seed))
    monkeypatch.setattr("kvlib.stream.stop_tokens", lambda *_: set())
    assert torch.equal(small.question_logits("What?"), large.question_logits("What?"))
    answers = [streamed.ask("What?", max_new_tokens=900, do_sample=False)[0] for streamed in (small, large)]
    assert answers[0] == answers[1]


def test_a_question_that_does_not_fit_says_how_long_it_may_be(engine, frames):
    streamed = engine(EvictionConfig(110))
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
    before, free = (
        streamed.cache_manager.fingerprint(),
        streamed.cache_manager.state.capacity - streamed.get_cache_info()["cache_seq_length"],
    )
    with pytest.raises(ValueError, match=f"may have up to {free} tokens"):
        streamed.ask("?" * free, max_new_tokens=2)
    assert streamed.cache_manager.fingerprint() == before
    turn = len(question_tokens(streamed.processor.tokenizer, "?")) - 1
    assert streamed.ask("?" * (free - turn), max_new_tokens=2, do_sample=False)[1]["prompt_tokens"] == free
    assert streamed.cache_manager.fingerprint() == before


def test_shrink_gives_memory_back_and_the_stream_goes_on_as_one_of_that_budget(engine, frames):
    streamed, small = engine(EvictionConfig(400)), engine(EvictionConfig(200))
    for seed in range(20):
        for each in (streamed, small):
            each.append_video_chunk(frames(2, seed))
    before = streamed.get_cache_info()
    after = streamed.shrink(200)
    assert after["cache_seq_length"] <= 200 < before["cache_seq_length"]
    assert streamed.cache_manager.state.room() == small.cache_manager.state.room()
    assert after["cache_bytes"] == small.get_cache_info()["cache_bytes"] < before["cache_bytes"]
    for seed in range(20, 40):
        assert streamed.append_video_chunk(frames(2, seed))["cache_seq_length"] <= 200
    assert streamed.eviction_config.max_cache_tokens == 200


@pytest.mark.parametrize("tokens", [400, 500, 250.0, True, 60, 1, 0, -3])  # sink and newest chunk: 54 + 16
def test_shrink_refuses_what_cannot_be(engine, frames, tokens):
    streamed = engine(EvictionConfig(400))
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
    before = streamed.cache_manager.fingerprint()
    with pytest.raises(ValueError, match=f"max_cache_tokens={tokens}"):
        streamed.shrink(tokens)
    assert streamed.cache_manager.fingerprint() == before
    with pytest.raises(ValueError, match="eviction_config"):
        engine().shrink(100)


class Graph:
    def __init__(self, nbytes: int):
        self.nbytes = nbytes


def test_graphs_are_lent_to_one_at_a_time_and_dropped_least_recently_used_first():
    pool, made = GraphPool(max_bytes=100), []

    def capture():
        made.append(Graph(40))
        return made[-1]

    assert not pool.seen("a") and pool.seen("a")
    one = pool.take("a", capture)
    two = pool.take("a", capture)
    assert one is not two, "the first is in use"
    pool.give("a", one)
    assert pool.nbytes() == 40
    assert pool.take("a", capture) is one
    pool.give("a", one)
    pool.give("b", Graph(40))
    pool.take("a", capture)
    pool.give("a", one)  # used later than b
    pool.give("c", Graph(40))
    assert pool.nbytes() == 80
    assert pool.take("a", capture) is one, "b went"
    assert len(made) == 2


def test_engines_on_one_model_share_graphs_and_layouts(engine, model, processor):
    assert engine().backbone is engine(EvictionConfig(100)).backbone
    assert VideoStreamingInference(model, processor, "cpu").get_cache_info()["graph_bytes"] == 0
