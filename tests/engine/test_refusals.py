"""Bad input is named, with a remedy, and leaves the engine as it was."""

import pytest
import torch
from helpers import fingerprint, placement, processed

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.policies import Importance, SinkWindow

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, f: e.append_video_chunk([]), "zero frames"),
        (lambda e, f: e.append_video_chunk(torch.empty(0, 56, 84, 3, dtype=torch.uint8)), "zero frames"),
        (lambda e, f: e.append_video_chunk([f(1)[0].numpy(), f(1, 0, 84, 56)[0].numpy()]), r"mixed sizes .*\(56, 84\)"),
        (lambda e, f: e.append_video_chunk(f().float()), "torch.float32"),
        (lambda e, f: e.append_video_chunk(f()[..., :1]), r"\(2, 56, 84, 1\)"),
        *((lambda e, f, fps=fps: e.append_video_chunk(f(), fps=fps), f"fps={fps!r}") for fps in (1e-18, INF, NAN, 0, -1, "2")),
        *((lambda e, f, fps=fps: e.encode(f(), fps=fps), f"fps={fps!r}") for fps in (1e-18, INF, NAN, 0, -1, "2", None)),
        (lambda e, f: e.ask(""), "question=''"),
        (lambda e, f: e.ask(" \n"), r"question=' \\n'"),
        (lambda e, f: e.ask(None), "question=None"),
        (lambda e, f: e.question_logits(""), "question=''"),
        *((lambda e, f, n=n: e.ask("What?", max_new_tokens=n), f"max_new_tokens={n!r}") for n in (0, -1, 1.5, 2.0, True, "3")),
        *((lambda e, f, t=t: e.ask("What?", temperature=t), f"temperature={t}") for t in (0.0, -1.0, INF, NAN)),
    ],
)
@pytest.mark.parametrize("config", [None, EvictionConfig(110)], ids=["unbounded", "bounded"])
def test_bad_input_is_named_and_leaves_the_engine_usable(engine, frames, config, call, message):
    streamed = processed(engine, frames, config, 6)
    before, where = fingerprint(streamed), placement(streamed)
    with pytest.raises(ValueError, match=message):
        call(streamed, frames)
    assert (fingerprint(streamed), placement(streamed)) == (before, where)
    streamed.append_video_chunk(frames())


@pytest.mark.parametrize("call", ["ask", "question_logits"])
def test_asking_before_watching_is_refused(engine, call):
    with pytest.raises(ValueError, match="append_video_chunk before ask"):
        getattr(engine(), call)("What?")


def test_a_budget_below_sink_and_one_chunk_is_refused(engine, frames):
    with pytest.raises(ValueError, match="max_cache_tokens=20"):
        engine(EvictionConfig(20)).append_video_chunk(frames())
    streamed = engine(EvictionConfig(80))
    first = streamed.append_video_chunk(frames())["cache_seq_length"]
    with pytest.raises(ValueError, match=f"sink of {first} .*raise max_cache_tokens to at least {first + 28}"):
        streamed.append_video_chunk(frames(6))
    assert streamed.get_cache_info()["cache_seq_length"] == first
    assert streamed.ask("What?", max_new_tokens=2)[1]["new_tokens"] > 0


def test_a_chunk_larger_than_the_window_is_refused(engine, frames):
    streamed = engine(EvictionConfig(400, window_size=20))
    streamed.append_video_chunk(frames())
    with pytest.raises(ValueError, match="raise window_size=20 to at least 28"):
        streamed.append_video_chunk(frames(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(max_cache_tokens=0), "max_cache_tokens=0"),
        (dict(max_cache_tokens=100.0), "max_cache_tokens=100.0"),
        (dict(max_cache_tokens=True), "max_cache_tokens=True"),
        (dict(max_cache_tokens=100, eviction_interval=0), "eviction_interval=0"),
        (dict(max_cache_tokens=100, sink_size=-1), "sink_size=-1"),
        (dict(max_cache_tokens=100, window_size="9"), "window_size='9'"),
        (dict(max_cache_tokens=100, sink_size=60, window_size=60), "sink_size=60"),
        (dict(max_cache_tokens=100, policy="magic"), "policy='magic'.*sink_window, uniform, importance"),
        (dict(max_cache_tokens=100, policy=SinkWindow), "is no policy.*Importance"),
        (dict(max_cache_tokens=100, policy=Importance), "is no policy.*Importance"),
        (dict(max_cache_tokens=100, policy=None), "policy=None is no policy"),
        (dict(max_cache_tokens=100, position_mode="magic"), "position_mode='magic'.*keep, remap, compact, unrotated"),
    ],
)
def test_unusable_configurations_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EvictionConfig(**options)


def test_an_unknown_scorer_is_named():
    with pytest.raises(ValueError, match="scorer='magic'.*value_norm, key_norm"):
        Importance("magic")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, "fp8"])
def test_another_dtype_of_the_cache_is_refused(model, processor, dtype):
    with pytest.raises(ValueError, match="kv_dtype=.*float8_e4m3fn.*None"):
        VideoStreamingInference(model, processor, "cpu", kv_dtype=dtype)


@pytest.mark.parametrize("budget", [0, -5, 110, 200, 60.0, True, 60])
def test_a_budget_that_a_stream_cannot_shrink_to_is_named(engine, frames, budget):
    """Sink and newest chunk take 70 tokens."""
    streamed = processed(engine, frames, EvictionConfig(110), 6)
    before, where = fingerprint(streamed), placement(streamed)
    with pytest.raises(ValueError, match=f"max_cache_tokens={budget!r}"):
        streamed.shrink(budget)
    assert (fingerprint(streamed), placement(streamed)) == (before, where)


def test_the_cache_of_a_stream_is_not_written_to_past_the_engine(engine, frames):
    streamed = processed(engine, frames, None, 1)
    keys = torch.zeros(1, 2, 1, 16)
    with pytest.raises(TypeError, match=r"KVCacheManager.tail\(\)"):
        streamed.cache_manager.cache.layers[0].update(keys, keys)
