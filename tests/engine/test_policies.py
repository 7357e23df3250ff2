"""Every policy with every position mode: who stays, where they stand, and that their keys are the ones of those positions."""

import pytest
import torch
from helpers import next_logits
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib import EvictionConfig
from kvlib.evictor import POSITION_MODES
from kvlib.ops.positions import chunk_positions
from kvlib.policies import Importance, SinkWindow, Uniform
from kvlib.policies.history import history
from kvlib.policies.scorers import SCORERS
from kvlib.state import ChunkSpan

POLICIES = [SinkWindow(), Uniform(), *map(Importance, SCORERS)]  # the test matrix: a new policy is one line here
CONTIGUOUS = [mode for mode in POSITION_MODES if mode != "keep"]
ALL = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: getattr(p, "scorer", type(p).__name__))


def watch(engine, frames, config, chunks=24):
    """An engine that has watched `chunks` chunks, with each layer's un-rotated keys [1, KV heads, n, head dim] by chunk."""
    streamed = engine(config)
    layers = streamed.model.model.language_model.layers
    raw = [[] for _ in layers]
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
        for layer, kept in zip(layers, raw, strict=True)
    ]
    try:
        for seed in range(chunks):
            streamed.append_video_chunk(frames(2, seed))
    finally:
        for hook in hooks:
            hook.remove()
    return streamed, [[keys.unflatten(-1, (2, -1)).transpose(1, 2) for keys in kept] for kept in raw]


@ALL
@pytest.mark.parametrize("mode", POSITION_MODES)
def test_cached_keys_are_the_raw_keys_rotated_to_where_the_record_says_they_stand(engine, frames, policy, mode):
    """The oracle "prune, then RoPE": keys of the survivors as the projection gave them, rotated afresh by transformers."""
    streamed, raw = watch(engine, frames, EvictionConfig(220, policy=policy, position_mode=mode))
    manager = streamed.cache_manager
    assert manager.evictor.total_evictions > 5
    language = streamed.model.model.language_model
    cos, sin = language.rotary_emb(torch.zeros(1), manager.positions[:, None])
    for layer, by_chunk in zip(manager.cache.layers, raw, strict=True):
        kept = torch.cat([by_chunk[chunk.index] for chunk in manager.chunks], dim=2)
        expected = kept if mode == "unrotated" else apply_rotary_pos_emb(kept, kept, cos, sin)[1]
        torch.testing.assert_close(layer.keys, expected, rtol=0, atol=5e-5)


@ALL
@pytest.mark.parametrize("mode", CONTIGUOUS)
def test_survivors_stand_as_if_only_they_had_been_streamed(engine, frames, policy, mode):
    streamed, _ = watch(engine, frames, EvictionConfig(220, policy=policy, position_mode=mode))
    manager = streamed.cache_manager
    assert any(b.index - a.index > 1 for a, b in zip(manager.chunks, manager.chunks[1:], strict=False)), "nothing is missing"
    parts, start = [], manager.chunks[0].start
    for chunk in manager.chunks:
        grid = (1, 2, 3)  # of frames of 56 x 84
        before = chunk.tokens - 6 - 3  # "<|vision_end|><|im_end|>\n" are three tokens
        positions, start = chunk_positions(before, grid, 3, start, 2.0)
        parts.append(positions)
    assert torch.equal(manager.positions, torch.cat(parts, dim=1))
    assert manager.next_position == start
    if mode != "remap":
        assert manager.chunks[0].start == 0


@pytest.mark.parametrize("policy", [SinkWindow(), Uniform()], ids=["sink_window", "uniform"])
def test_all_contiguous_modes_give_the_same_logits(engine, frames, policy):
    configs = [EvictionConfig(220, policy=policy, position_mode=mode) for mode in (*CONTIGUOUS, "keep")]
    *alike, kept = [next_logits(watch(engine, frames, config)[0]) for config in configs]
    for logits in alike[1:]:
        torch.testing.assert_close(logits, alike[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(kept, alike[0], rtol=1e-3, atol=1e-3), "positions must matter, or the test is blind"


@ALL
def test_sink_and_newest_stay_and_the_budget_holds(engine, frames, policy):
    streamed = engine(EvictionConfig(220, policy=policy))
    for seed in range(25):
        info = streamed.append_video_chunk(frames(2, seed))
        stored = [chunk.index for chunk in streamed.cache_manager.chunks]
        assert (stored[0], stored[-1]) == (0, seed)
        assert stored == sorted(set(stored))
        assert info["cache_seq_length"] <= 220


@ALL
def test_a_chunk_keeps_its_number_when_there_is_room_for_one_only(engine, frames, policy):
    streamed = engine(EvictionConfig(100, policy=policy))
    first = streamed.append_video_chunk(frames(2, 0))["cache_seq_length"]
    streamed = engine(EvictionConfig(first + 20, policy=policy))
    for seed in range(5):
        streamed.append_video_chunk(frames(2, seed))
        assert [chunk.index for chunk in streamed.cache_manager.chunks] == sorted({0, seed})


def spans(indices, scores=None, tokens=10):
    return [ChunkSpan(i, tokens, 0, 0, 0, (scores or {}).get(i, 0.0)) for i in indices]


def test_the_history_is_what_lies_between_sink_and_recent_window():
    assert history(spans(range(8)), 1, 30) == range(1, 5)
    assert history(spans(range(8)), 1, 39) == range(1, 5)
    assert history(spans(range(8)), 1, 0) == range(1, 7), "the newest chunk is always recent"
    assert history(spans(range(3)), 1, 500) == range(1, 1)


def test_a_uniform_history_is_even_however_long_the_stream():
    policy, stored = Uniform(), spans([0])
    for index in range(1, 400):
        stored.append(spans([index])[0])
        while len(stored) > 21:
            stored.pop(policy.victim(stored, 1, 200))
    old = [chunk.index for chunk in stored[: len(history(stored, 1, 100)) + 1]]
    gaps = [b - a for a, b in zip(old, old[1:], strict=False)]
    assert len(old) == 11
    assert max(gaps) <= 2 * min(gaps) + 1
    assert old[-1] > 300, "the history reaches up to the recent window"
    assert [chunk.index for chunk in stored[-10:]] == list(range(390, 400))


def test_the_least_important_of_the_history_goes_first():
    stored = spans(range(8), scores={1: 5.0, 2: 3.0, 3: 4.0, 4: 3.0, 7: -9.0})
    order = []
    for _ in range(4):
        order.append(stored.pop(Importance(recent_share=0.3).victim(stored, 1, 100)).index)
    assert order == [2, 4, 3, 1], "the recent ones, 5 to 7, are not asked; of equals the oldest goes"


class Fixed:
    """A policy that always chooses the same place."""

    def __init__(self, place: int):
        self.place = place

    def victim(self, chunks, sink, window):
        return self.place


@pytest.mark.parametrize("place", [0, -1, 5, 99])
def test_a_policy_may_not_choose_the_sink_nor_the_newest_chunk(engine, frames, place):
    """Six chunks are stored: 0 is the sink, 5 the newest."""
    streamed = engine(EvictionConfig(54 + 5 * 16, policy=Fixed(place)))
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
    before = streamed.cache_manager.fingerprint()
    with pytest.raises(ValueError, match=f"chose chunk {place} of 6"):
        streamed.append_video_chunk(frames(2, 9))
    assert streamed.cache_manager.fingerprint() == before
    assert streamed.ask("What?", max_new_tokens=2)[1]["new_tokens"] > 0
