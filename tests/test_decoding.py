"""The recorded step of one token against the same step launch by launch; needs a CUDA device."""

import copy

import pytest
import torch
from test_attention import error, in_fp64, states

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.ops import decoding
from kvlib.ops.decoding import can_record

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def on_cuda(model):
    return copy.deepcopy(model).to("cuda", torch.bfloat16)


def logits_of(model, processor, frames, recorded: bool, config, kv_dtype=None) -> torch.Tensor:
    """Logits of eight decoded tokens after each of six chunks; the tokens are given, so that rounding does not part the two."""
    engine, rows = VideoStreamingInference(model, processor, "cuda", config, kv_dtype), []
    for seed in range(6):
        engine.append_video_chunk(frames(2, seed))
        snapshot = engine.cache_manager.take_snapshot()
        with torch.no_grad():
            engine._step(engine._tokens("What?"))
            step = engine._step_by_graph() if recorded else engine._step
            rows += [step(torch.tensor([[token]], device="cuda")).float().cpu() for token in range(8)]
        engine.cache_manager.restore_snapshot(snapshot)
    assert (engine._token_graph is not None) == recorded
    return torch.cat(rows)


@needs_cuda
@pytest.mark.parametrize("kv_dtype", [None, torch.float8_e4m3fn])
@pytest.mark.parametrize("config", [None, EvictionConfig(90, position_mode="keep"), EvictionConfig(90, position_mode="remap")])
def test_a_recorded_step_is_the_same_step(on_cuda, processor, frames, config, kv_dtype):
    found = logits_of(on_cuda, processor, frames, True, config, kv_dtype)
    expected = logits_of(on_cuda, processor, frames, False, config, kv_dtype)
    assert (found - expected).norm() / expected.norm() < 0.02
    assert (found[0] - expected[1]).norm() / expected[1].norm() > 0.02, "other tokens must have other logits"


@needs_cuda
def test_asking_is_recorded_once_per_buffer_and_leaves_no_trace(on_cuda, processor, frames, monkeypatch):
    made, original = [], decoding.TokenGraph
    monkeypatch.setattr("kvlib.stream.TokenGraph", lambda *a: made.append(1) or original(*a))
    engine = VideoStreamingInference(on_cuda, processor, "cuda", EvictionConfig(90, position_mode="remap"))
    for seed in range(8):
        engine.append_video_chunk(frames(2, seed))
        before = engine.cache_manager.fingerprint()
        first = engine.ask("What?", max_new_tokens=12, do_sample=False)[0]
        assert engine.ask("What?", max_new_tokens=12, do_sample=False)[0] == first
        assert engine.cache_manager.fingerprint() == before
    assert len(made) == 1


@needs_cuda
def test_two_engines_on_one_model_do_not_disturb_each_other(on_cuda, processor, frames):
    config = EvictionConfig(90, position_mode="remap")
    alone, other = (VideoStreamingInference(on_cuda, processor, "cuda", config) for _ in range(2))
    for seed in range(4):
        alone.append_video_chunk(frames(2, seed))
    expected = alone.ask("What?", max_new_tokens=12, do_sample=False)[0]
    for seed in range(9, 14):
        other.append_video_chunk(frames(2, seed))
        other.ask("What?", max_new_tokens=12, do_sample=False)
        assert alone.ask("What?", max_new_tokens=12, do_sample=False)[0] == expected


@needs_cuda
def test_keys_turned_in_every_forward_are_not_recorded(on_cuda, processor, frames):
    engine = VideoStreamingInference(on_cuda, processor, "cuda", EvictionConfig(90, position_mode="unrotated"))
    engine.append_video_chunk(frames(2))
    assert engine.ask("What?", max_new_tokens=5, do_sample=False)[1]["new_tokens"] >= 1
    assert engine._token_graph is None


def test_a_cpu_records_nothing(engine, frames):
    streaming = engine()
    streaming.append_video_chunk(frames(2))
    assert not can_record(streaming.model, streaming.cache_manager.cache)
    streaming.ask("What?", max_new_tokens=3, do_sample=False)
    assert streaming._token_graph is None


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("tokens", [1, 77, 5389, 130_000])
def test_the_kernel_against_fp64(tokens, dtype):
    from kvlib.ops.kernels import OneToken

    start, (q, *stored) = 37, states(16, 2, 1, tokens - 1, 128, "cuda", torch.bfloat16)
    buffers = [torch.full((1, 2, tokens + 500, 128), 7.0, device="cuda", dtype=dtype) for _ in stored]
    for buffer, part in zip(buffers, stored, strict=True):
        buffer[:, :, start : start + tokens] = part.to(dtype)
    bounds = [torch.tensor([number], dtype=torch.int32, device="cuda") for number in (start, tokens)]
    found = OneToken(16, 2, 128, torch.device("cuda"))(q, *buffers, *bounds)
    assert error(found, in_fp64(q, *(part.to(dtype).bfloat16() for part in stored))) < 0.01
