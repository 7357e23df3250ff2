"""The captured step of one token against the same step launch by launch; most of it needs a CUDA device."""

import copy

import pytest
import torch
from helpers import attention_in_fp64, attention_states, relative_error

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.ops import decoding
from kvlib.ops.decoding import TokenGraph, can_capture
from kvlib.ops.language import run
from kvlib.ops.positions import text_positions

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CONFIGS = [None, EvictionConfig(90, position_mode="keep"), EvictionConfig(90, position_mode="remap")]


@pytest.fixture(scope="module")
def on_cuda(model):
    return copy.deepcopy(model).to("cuda", torch.bfloat16)


def forward(model, tail, tokens: torch.Tensor) -> torch.Tensor:
    """Write token ids [1, n] to `tail`: logits [1, vocabulary] of the token that follows."""
    start = tail.next_position
    embeddings = model.get_input_embeddings()(tokens)
    states = run(model.model.language_model, tail.layers, embeddings, text_positions(tokens.shape[1], start))
    tail.advance(tokens.shape[1], start + tokens.shape[1])
    return model.lm_head(states[:, -1])


@torch.no_grad()
def logits_of(model, processor, frames, captured: bool, config, kv_dtype=None) -> torch.Tensor:
    """Logits of eight decoded tokens after each of six chunks; the tokens are given, so that rounding does not part the two."""
    engine, rows = VideoStreamingInference(model, processor, "cuda", config, kv_dtype), []
    for seed in range(6):
        engine.append_video_chunk(frames(2, seed))
        tail = engine.cache_manager.tail()
        forward(model, tail, torch.arange(12, device="cuda")[None])
        if captured:
            graph = TokenGraph(model, tail.buffers, tail.start, tail.stop)
            graph.begin(tail.start, tail.stop, tail.next_position)
        for number in range(8):
            token = torch.tensor([[number]], device="cuda")
            rows.append((graph.step(token) if captured else forward(model, tail, token)).float().cpu())
    return torch.cat(rows)


@needs_cuda
@pytest.mark.parametrize("kv_dtype", [None, torch.float8_e4m3fn])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_captured_step_is_the_same_step(on_cuda, processor, frames, config, kv_dtype):
    found = logits_of(on_cuda, processor, frames, True, config, kv_dtype)
    expected = logits_of(on_cuda, processor, frames, False, config, kv_dtype)
    assert relative_error(found, expected.double()) < 0.02
    assert relative_error(found[0], expected[1].double()) > 0.02, "other tokens must have other logits"


@needs_cuda
def test_asking_captures_once_per_buffer_and_leaves_no_trace(on_cuda, processor, frames, monkeypatch):
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
    assert engine.get_cache_info()["graph_bytes"] > 0


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
def test_keys_that_every_forward_rotates_are_not_captured(on_cuda, processor, frames, monkeypatch):
    monkeypatch.setattr("kvlib.stream.TokenGraph", lambda *_: pytest.fail("a capture"))
    engine = VideoStreamingInference(on_cuda, processor, "cuda", EvictionConfig(90, position_mode="unrotated"))
    engine.append_video_chunk(frames(2))
    assert engine.ask("What?", max_new_tokens=5, do_sample=False)[1]["new_tokens"] >= 1


def test_a_cpu_captures_nothing(engine, frames, monkeypatch):
    monkeypatch.setattr("kvlib.stream.TokenGraph", lambda *_: pytest.fail("a capture"))
    streaming = engine()
    streaming.append_video_chunk(frames(2))
    assert not can_capture(streaming.model, streaming.cache_manager.state.buffers[0])
    streaming.ask("What?", max_new_tokens=3, do_sample=False)
    assert streaming.get_cache_info()["graph_bytes"] == 0


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("tokens", [1, 77, 5389, 130_000])
def test_the_kernel_against_fp64(tokens, dtype):
    from kvlib.ops.kernels import OneToken

    start, (q, *stored) = 37, attention_states(16, 2, 1, tokens - 1, 128, "cuda", torch.bfloat16)
    buffers = [torch.full((1, 2, tokens + 500, 128), 7.0, device="cuda", dtype=dtype) for _ in stored]
    for buffer, part in zip(buffers, stored, strict=True):
        buffer[:, :, start : start + tokens] = part.to(dtype)
    bounds = [torch.tensor([number], dtype=torch.int32, device="cuda") for number in (start, tokens)]
    found = OneToken(16, 2, 128, torch.device("cuda"))(q, *buffers, *bounds)
    assert relative_error(found, attention_in_fp64(q, *(part.to(dtype).bfloat16() for part in stored))) < 0.01


def test_a_buffer_of_another_capacity_at_the_same_address_is_another_one():
    buffer = torch.zeros(2, 1, 2, 9, 4)
    other = buffer[..., :5, :]
    assert other.data_ptr() == buffer.data_ptr()
    assert decoding.addresses([buffer]) == decoding.addresses([buffer])
    assert decoding.addresses([buffer]) != decoding.addresses([other])
