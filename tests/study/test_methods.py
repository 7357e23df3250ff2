"""The compared methods: their names and settings, the shared vision tower, and the baseline that keeps frames only."""

import pytest

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.study.methods import RecomputeRecent, engines_by_mode, methods, process_together
from kvlib.policies import Importance


def test_every_method_gets_the_budget_the_mode_and_its_own_policy(model, processor):
    made = {name: make(model, processor) for name, make in methods(300, "compact").items()}
    assert made.pop("none").eviction_config is None
    assert made.pop("last_n").max_cache_tokens == 300
    for name, engine in made.items():
        config = engine.eviction_config
        assert (config.max_cache_tokens, config.position_mode) == (300, "compact")
        assert config.policy == (name if name in ("sink_window", "uniform") else Importance(name))


def test_every_engine_drops_what_stands_still_and_the_baseline_does_not(model, processor):
    made = {name: make(model, processor) for name, make in methods(300, "remap", 0.03).items()}
    assert not hasattr(made.pop("last_n"), "drop_static")
    assert {engine.drop_static for engine in made.values()} == {0.03}
    assert {make(model, processor).drop_static for name, make in methods(300, "remap").items() if name != "last_n"} == {0.0}


def test_engines_by_mode_differ_only_in_the_position_mode(model, processor):
    made = engines_by_mode(model, processor, 300, ("keep", "unrotated"))
    assert {mode: engine.eviction_config for mode, engine in made.items()} == {
        "keep": EvictionConfig(300, position_mode="keep"),
        "unrotated": EvictionConfig(300, position_mode="unrotated"),
    }


def test_processing_together_is_processing_alone_with_one_pass_of_the_vision_tower(
    engine, model, processor, frames, monkeypatch
):
    configs = [EvictionConfig(220, position_mode=mode) for mode in ("keep", "remap")]
    together, alone = [engine(config) for config in configs], [engine(config) for config in configs]
    recent, encoded, encode = RecomputeRecent(model, processor, "cpu", 220), [], VideoStreamingInference.encode
    for seed in range(8):
        for single in alone:
            single.append_video_chunk(frames(2, seed), 1.0)
    monkeypatch.setattr(VideoStreamingInference, "encode", lambda *given: encoded.append(given) or encode(*given))
    for seed in range(8):
        process_together([*together, recent], frames(2, seed), 1.0)
    assert len(encoded) == 8
    assert [e.cache_manager.fingerprint() for e in together] == [e.cache_manager.fingerprint() for e in alone]
    assert recent.get_cache_info()["chunks"] > 0


def test_recompute_recent_answers_as_an_engine_that_processed_only_the_kept_chunks(engine, model, processor, frames):
    first = engine().append_video_chunk(frames())["cache_seq_length"]
    later = engine().count_tokens(frames())
    recent = RecomputeRecent(model, processor, "cpu", first + 2 * later + 1)
    fresh = VideoStreamingInference(model, processor, "cpu")
    for seed in range(7):
        info = recent.append_video_chunk(frames(2, seed))
        if seed >= 4:
            fresh.append_video_chunk(frames(2, seed))
    options = dict(max_new_tokens=8, do_sample=False)
    answer, metrics = recent.ask("What?", **options)
    assert answer == fresh.ask("What?", **options)[0] == recent.ask("What?", **options)[0]
    assert metrics["prompt_tokens"] - fresh.ask("What?", **options)[1]["prompt_tokens"] == first + 2 * later
    assert info["chunks"] == 3
    recent.append_video_chunk(frames(2, 9))
    fresh = VideoStreamingInference(model, processor, "cpu")
    for seed in (5, 6, 9):
        fresh.append_video_chunk(frames(2, seed))
    assert recent.ask("What?", **options)[0] == fresh.ask("What?", **options)[0]


def test_recompute_recent_refuses_what_cannot_fit(model, processor, frames):
    with pytest.raises(ValueError, match="max_cache_tokens=20"):
        RecomputeRecent(model, processor, "cpu", 20).append_video_chunk(frames())
