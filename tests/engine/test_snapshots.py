"""Snapshots, fingerprints, and chunks that are cut off."""

from dataclasses import replace

import pytest
import torch
from helpers import fingerprint, next_logits, processed

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.evictor import POSITION_MODES


@pytest.mark.parametrize("mode", [None, "remap"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_chunk_that_is_cut_off_is_not_in_the_cache(engine, model, frames, mode, layer):
    config = EvictionConfig(110, position_mode=mode) if mode else None
    streamed, other = processed(engine, frames, config, 3), processed(engine, frames, config, 3)
    before = fingerprint(streamed)

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = model.model.language_model.layers[layer].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        streamed.append_video_chunk(frames(2, 3))
    hook.remove()
    assert fingerprint(streamed) == before
    for seed in (3, 4, 5):
        streamed.append_video_chunk(frames(2, seed))
        other.append_video_chunk(frames(2, seed))
    assert torch.equal(next_logits(streamed), next_logits(other))
    assert fingerprint(streamed) == fingerprint(other)


def test_the_fingerprint_sees_one_changed_number(engine, frames):
    manager = processed(engine, frames, EvictionConfig(110), 1).cache_manager
    before = manager.fingerprint()
    for tensor in (manager.cache.layers[1].keys, manager.cache.layers[2].values):
        number = tensor[0, 1, 3, 5].clone()
        tensor[0, 1, 3, 5] += 1
        assert manager.fingerprint() != before
        tensor[0, 1, 3, 5] = number
    assert manager.fingerprint() == before
    state = manager.state
    changes = (
        dict(counts=replace(state.counts, tokens_evicted=1)),
        dict(next_position=state.next_position + 1),
        dict(spread=(state.spread[0] + 1,)),
        dict(seen=state.seen + 1),
        dict(chunks_seen=2),
        dict(chunks=(replace(state.chunks[0], score=1.0),)),
    )
    for change in changes:
        manager.current.state = replace(state, **change)
        assert manager.fingerprint() != before
    manager.current.state = state
    assert manager.fingerprint() == before


def test_snapshots_copy_no_key(engine, frames):
    manager = processed(engine, frames, EvictionConfig(110), 8).cache_manager
    record = manager.take_snapshot()
    assert manager.state.originals and not record.originals and not record.buffers and not record.pending


@pytest.mark.parametrize("mode", [None, *POSITION_MODES])
def test_restoring_a_snapshot_takes_back_what_was_appended(engine, frames, mode):
    streamed = processed(engine, frames, EvictionConfig(300, position_mode=mode) if mode else None, 4)
    manager, before, logits = streamed.cache_manager, fingerprint(streamed), next_logits(streamed)
    snapshot = manager.take_snapshot()
    for seed in range(10, 20):
        streamed.append_video_chunk(frames(2, seed))
    assert not torch.equal(next_logits(streamed), logits)
    manager.restore_snapshot(snapshot)
    assert fingerprint(streamed) == before
    assert torch.equal(next_logits(streamed), logits)
    streamed.append_video_chunk(frames(2, 4))
    twin = processed(engine, frames, EvictionConfig(300, position_mode=mode) if mode else None, 5)
    assert fingerprint(streamed) == fingerprint(twin)


def test_a_snapshot_older_than_an_eviction_is_refused(engine, frames):
    streamed = engine(EvictionConfig(150))
    streamed.append_video_chunk(frames())
    snapshot = streamed.cache_manager.take_snapshot()
    for seed in range(9):
        streamed.append_video_chunk(frames(2, seed))
    before = fingerprint(streamed)
    with pytest.raises(RuntimeError, match="take a new snapshot"):
        streamed.cache_manager.restore_snapshot(snapshot)
    assert fingerprint(streamed) == before


def test_a_snapshot_of_what_was_taken_back_is_refused(engine, frames):
    streamed = processed(engine, frames, None, 2)
    manager = streamed.cache_manager
    older = manager.take_snapshot()
    streamed.append_video_chunk(frames(2, 2))
    newer = manager.take_snapshot()
    manager.restore_snapshot(older)
    streamed.append_video_chunk(frames(2, 9))
    with pytest.raises(RuntimeError, match="restored older snapshot"):
        manager.restore_snapshot(newer)


def test_shrinking_gives_memory_back_and_goes_on_as_a_smaller_stream(engine, frames):
    streamed, small = engine(EvictionConfig(400)), engine(EvictionConfig(120))
    for seed in range(12):
        streamed.append_video_chunk(frames(2, seed))
        small.append_video_chunk(frames(2, seed))
    before = streamed.get_cache_info()["cache_bytes"]
    info = streamed.shrink(120)
    assert info["cache_seq_length"] <= 120 and info["cache_bytes"] < before
    assert streamed.eviction_config.max_cache_tokens == 120
    assert [c.index for c in streamed.cache_manager.chunks] == [0, 8, 9, 10, 11]
    for seed in range(12, 18):
        assert streamed.append_video_chunk(frames(2, seed))["cache_seq_length"] <= 120
        small.append_video_chunk(frames(2, seed))
    assert [c.index for c in streamed.cache_manager.chunks] == [c.index for c in small.cache_manager.chunks]


@pytest.mark.parametrize(
    ("mode", "policy"),
    [(None, "sink_window"), *((mode, "sink_window") for mode in POSITION_MODES), ("remap", "uniform"), ("remap", "importance")],
)
def test_what_is_undone_leaves_no_trace_whatever_it_evicted(engine, frames, mode, policy):
    """The stream goes on as one that nothing was done to, and what happened inside is what happens to a stream of its own."""
    config = EvictionConfig(110, position_mode=mode, policy=policy) if mode else None
    streamed, other = engine(config), engine(config)
    for seed in range(8):
        with_more = processed(engine, frames, config, seed)
        for count in (1, 4):
            before, more = fingerprint(streamed), frames(count, 90 + seed)
            with streamed.cache_manager.undone():
                inside = streamed.append_video_chunk(more, time_s=seed + 0.5)
                logits = next_logits(streamed)
            assert fingerprint(streamed) == before
        expected = with_more.append_video_chunk(more, time_s=seed + 0.5)
        assert torch.equal(next_logits(with_more), logits)
        assert inside.get("eviction_stats") == expected.get("eviction_stats")
        streamed.append_video_chunk(frames(2, seed))
        other.append_video_chunk(frames(2, seed))
        assert fingerprint(streamed) == fingerprint(other)
    assert mode is None or streamed.get_cache_info()["eviction_stats"]["total_evictions"] > 3


def test_what_an_exception_ends_is_undone_too(engine, frames):
    streamed = processed(engine, frames, EvictionConfig(110), 6)
    before = fingerprint(streamed)
    with pytest.raises(KeyboardInterrupt), streamed.cache_manager.undone():
        streamed.append_video_chunk(frames(2, 9))
        raise KeyboardInterrupt
    assert fingerprint(streamed) == before


def test_what_is_undone_is_not_recalled(model, processor, frames):
    streams = [VideoStreamingInference(model, processor, "cpu", EvictionConfig(200), archive="memory") for _ in range(2)]
    for seed in range(12):
        for number, streamed in enumerate(streams):
            if number:
                with streamed.cache_manager.undone():
                    streamed.append_video_chunk(frames(2, 50 + seed))
                    streamed.ask(max_new_tokens=1, do_sample=False, recall=1)
            streamed.append_video_chunk(frames(2, seed))
        answers = [streamed.ask(max_new_tokens=4, do_sample=False, recall=2) for streamed in streams]
        recalled = [[(chunk["index"], pytest.approx(chunk["share"])) for chunk in told["recalled"]] for _, told in answers]
        assert answers[0][0] == answers[1][0] and recalled[0] == recalled[1]
    assert fingerprint(streams[0]) == fingerprint(streams[1]) and recalled[0]
