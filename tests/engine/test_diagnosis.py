"""The diagnosis against transformers' own eager attention, the counterfactual against the stream itself, and the baseline."""

import threading

import pandas as pd
import pytest
import torch
from kvlib.lab.study.baselines import LastFrames
from test_language import transformers_forward

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.study.diagnosis import REGIONS, attention_by_region, contiguous_positions, explain
from kvlib.ops import language as language_module

MODES = ("keep", "remap", "compact", "unrotated")


def watched(engine, frames, config, chunks=20):
    streamed = engine(config)
    for seed in range(chunks):
        streamed.append_video_chunk(frames(2, seed))
    return streamed


@pytest.mark.parametrize("mode", [None, *MODES])
def test_shares_are_those_of_transformers_eager_attention(engine, model, frames, mode, monkeypatch):
    streamed = watched(engine, frames, EvictionConfig(220, position_mode=mode) if mode else None)
    before = streamed.cache_manager.fingerprint()
    table = attention_by_region(streamed, "What?")
    assert streamed.cache_manager.fingerprint() == before
    total = table.groupby(["layer", "head"])["share"].sum()
    assert len(total) == 3 * 4
    assert total.to_numpy() == pytest.approx(1, abs=1e-5)

    seen, language, snapshot = [], model.model.language_model, streamed.cache_manager.take_snapshot()
    hooks = [layer.self_attn.register_forward_hook(lambda _m, _a, out: seen.append(out[1])) for layer in language.layers]
    model.set_attn_implementation("eager")
    monkeypatch.setattr(language_module, "run", transformers_forward)
    try:
        with torch.no_grad():
            streamed._step(streamed._tokens("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"))
    finally:
        model.set_attn_implementation("sdpa")
        streamed.cache_manager.restore_snapshot(snapshot)
        for hook in hooks:
            hook.remove()
    sink = streamed.cache_manager.chunks[0].tokens
    for layer, weights in enumerate(seen):
        shares = table[(table["layer"] == layer) & (table["region"] == "sink")].sort_values("head")["share"]
        assert shares.to_numpy() == pytest.approx(weights[0, :, :, :sink].sum(-1).mean(-1).numpy(), abs=1e-5)
        entropies = table[(table["layer"] == layer) & (table["region"] == "sink")].sort_values("head")["entropy"]
        assert entropies.to_numpy() == pytest.approx(torch.special.entr(weights[0]).sum(-1).mean(-1).numpy(), abs=1e-4)


def test_the_distance_shows_the_hole(engine, frames):
    distance = {}
    for mode in ("keep", "remap"):
        streamed = watched(engine, frames, EvictionConfig(220, position_mode=mode))
        table = attention_by_region(streamed, "What?")
        assert set(table["region"]) == set(REGIONS)
        distance[mode] = table.groupby("region")["distance"].first()
    streamed = watched(engine, frames, None)
    spans = streamed.cache_manager.chunks
    assert distance["keep"]["sink"] == spans[-1].stop - spans[0].stop + 1
    assert distance["remap"]["sink"] < distance["keep"]["sink"]
    assert distance["remap"]["recent"] == distance["keep"]["recent"] == 1


def test_inside_the_counterfactual_keep_is_what_remapping_at_once_would_be(engine, frames):
    """The first eviction of a remapping stream turns the same keys: both then give the same answer logits."""
    keep, remap = (watched(engine, frames, EvictionConfig(220, position_mode=mode), 0) for mode in ("keep", "remap"))
    for seed in range(40):
        if keep.cache_manager.evictor.total_evictions:
            break
        for streamed in (keep, remap):
            streamed.append_video_chunk(frames(2, seed))
    assert keep.cache_manager.evictor.total_evictions == 1
    before = keep.cache_manager.fingerprint()
    sink = keep.cache_manager.chunks[0].tokens
    with contiguous_positions(keep) as closed:
        for ours, theirs in zip(closed.cache_manager.cache.layers, remap.cache_manager.cache.layers, strict=True):
            torch.testing.assert_close(ours.keys[:, :, :sink], theirs.keys[:, :, :sink])
        assert torch.equal(closed.cache_manager.positions, remap.cache_manager.positions)
        assert closed.ask("What?", max_new_tokens=4, do_sample=False)[1]["new_tokens"] > 0
    assert keep.cache_manager.fingerprint() == before


def test_the_counterfactual_is_undone_after_an_error(engine, frames):
    streamed = watched(engine, frames, EvictionConfig(220, position_mode="keep"))
    before = streamed.cache_manager.fingerprint()
    with pytest.raises(RuntimeError, match="on purpose"), contiguous_positions(streamed):
        assert streamed.cache_manager.fingerprint() != before
        raise RuntimeError("on purpose")
    assert streamed.cache_manager.fingerprint() == before


def test_an_unrotated_engine_has_no_hole_to_close(engine, frames):
    streamed = watched(engine, frames, EvictionConfig(220, position_mode="unrotated"))
    with pytest.raises(ValueError, match="unrotated"), contiguous_positions(streamed):
        pass


def test_attention_takes_no_notice_of_other_threads_on_the_model(engine, frames, monkeypatch):
    streamed, other = watched(engine, frames, None), engine()
    alone, step = attention_by_region(streamed, "What?"), streamed._step

    def disturbed(tokens, look):
        thread = threading.Thread(target=lambda: other.append_video_chunk(frames()))
        thread.start()
        thread.join()
        return step(tokens, look)

    monkeypatch.setattr(streamed, "_step", disturbed)
    pd.testing.assert_frame_equal(attention_by_region(streamed, "What?"), alone)
    assert len(other.cache_manager.chunks) == 1


@pytest.mark.parametrize(
    ("right", "contiguous", "full", "words"),
    [
        (True, False, False, "right"),
        (False, False, False, "the model itself"),
        (False, True, False, "the position gap"),
        (False, True, True, "the position gap"),
        (False, False, True, "eviction"),
    ],
)
def test_explanations(right, contiguous, full, words):
    assert explain(right, contiguous, full).startswith(words)


def test_last_frames_answers_as_an_engine_that_saw_only_those(engine, model, processor, frames):
    first = engine().append_video_chunk(frames())["cache_seq_length"]
    later = engine().count_tokens(frames())
    last = LastFrames(model, processor, "cpu", first + 2 * later + 1)
    fresh = VideoStreamingInference(model, processor, "cpu")
    for seed in range(7):
        info = last.append_video_chunk(frames(2, seed))
        if seed >= 4:
            fresh.append_video_chunk(frames(2, seed))
    options = dict(max_new_tokens=8, do_sample=False)
    answer, metrics = last.ask("What?", **options)
    assert answer == fresh.ask("What?", **options)[0] == last.ask("What?", **options)[0]
    assert metrics["prompt_tokens"] - fresh.ask("What?", **options)[1]["prompt_tokens"] == first + 2 * later
    assert info["chunks"] == 3
    last.append_video_chunk(frames(2, 9))
    fresh = VideoStreamingInference(model, processor, "cpu")
    for seed in (5, 6, 9):
        fresh.append_video_chunk(frames(2, seed))
    assert last.ask("What?", **options)[0] == fresh.ask("What?", **options)[0]


def test_counted_tokens_are_those_that_are_stored(engine, frames):
    streamed = engine()
    for seed, count in enumerate((2, 3, 6)):
        expected = streamed.count_tokens(frames(count, seed, 84, 140), first=seed == 0)
        before = streamed.cache_manager.get_seq_length()
        assert streamed.append_video_chunk(frames(count, seed, 84, 140))["cache_seq_length"] - before == expected


def test_last_frames_refuses_what_cannot_fit(model, processor, frames):
    with pytest.raises(ValueError, match="max_cache_tokens=20"):
        LastFrames(model, processor, "cpu", 20).append_video_chunk(frames())
