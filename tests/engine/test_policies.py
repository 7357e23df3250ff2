"""Every policy with every position mode: who stays, where they stand, and that their keys are the ones of those positions."""

import pytest
import torch
from test_stream import next_logits
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib import EvictionConfig, evictor
from kvlib.cache import ChunkSpan, StreamCache, StreamLayer, turn_keys
from kvlib.evictor import POSITION_MODES
from kvlib.ops.positions import chunk_positions, rotate_keys, rotation
from kvlib.policies import Importance, SinkWindow, Uniform
from kvlib.policies.history import history
from kvlib.policies.scorers import SCORERS

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


def test_a_frame_that_repeats_the_last_one_is_redundant(engine, frames):
    streamed = engine(EvictionConfig(400, policy=Importance("temporal_redundancy")))
    for seed in (1, 2, 2, 3):
        streamed.append_video_chunk(frames(2, seed))
    scores = [chunk.score for chunk in streamed.cache_manager.chunks]
    assert scores[2] < min(scores[1], scores[3])


def test_what_looks_like_the_memory_does_not_surprise():
    def surprise(direction):
        values = torch.zeros(1, 2, 30, 4)
        values[:, :, :20, 0] = 2.0
        values[:, :, 20:, direction] = 1.0
        cache = StreamCache(2, 40)
        for layer in cache.layers:
            layer.update(values, values)
        return SCORERS["surprise"](cache, spans(range(3)), torch.ones(2))

    assert surprise(0) == pytest.approx(0)
    assert surprise(1) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["keep", "unrotated"])
def test_redundancy_does_not_see_positions(engine, frames, mode):
    """Equal pictures at other positions: turned to the same place, first-layer keys of a frame are equal."""
    streamed = engine(EvictionConfig(400, policy=Importance("temporal_redundancy"), position_mode=mode))
    for seed in (1, 2, 2):
        streamed.append_video_chunk(frames(2, seed))
    manager = streamed.cache_manager
    first_layer = StreamCache(1, 400)
    first_layer.layers[0].update(manager.cache.layers[0].keys, manager.cache.layers[0].values)
    frequencies = manager.evictor.inverse_frequencies * (mode == "keep")
    assert SCORERS["temporal_redundancy"](first_layer, manager.chunks, frequencies) == pytest.approx(-1, abs=1e-4)


def test_norm_scorers_follow_the_norms():
    cache = StreamCache(2, 40)
    for layer in cache.layers:
        layer.update(torch.ones(1, 2, 20, 4), torch.cat([torch.ones(1, 2, 10, 4), 3 * torch.ones(1, 2, 10, 4)], dim=2))
    assert SCORERS["value_norm"](cache, spans([0]), torch.ones(2)) == pytest.approx(6)
    assert SCORERS["key_norm"](cache, spans([0]), torch.ones(2)) == pytest.approx(-2)


def test_an_unknown_scorer_is_named():
    with pytest.raises(ValueError, match="scorer='magic'.*value_norm, key_norm"):
        Importance("magic")


def test_positions_of_an_endless_remapped_stream_stay_small(engine, frames, monkeypatch):
    monkeypatch.setattr(evictor, "FAR", 150)
    streamed, highest = engine(EvictionConfig(220, position_mode="remap")), 0
    for seed in range(60):
        streamed.append_video_chunk(frames(2, seed))
        highest = max(highest, streamed.cache_manager.next_position)
    far = engine(EvictionConfig(220, position_mode="compact"))
    for seed in range(60):
        far.append_video_chunk(frames(2, seed))
    assert highest < 300
    torch.testing.assert_close(next_logits(streamed), next_logits(far), rtol=1e-4, atol=1e-4)


def test_ten_thousand_turns_in_bf16_do_not_drift():
    """One rounding, whatever the number of turns; a chain of rotations is far off by then."""
    frequencies = 1e4 ** (-torch.arange(0, 16, 2) / 16)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 2, 8, 16, generator=generator).to(torch.bfloat16)
    layer, chunk, chain = StreamLayer(8), ChunkSpan(0, 8, 0, 3, 0), keys
    layer.update(keys, keys)
    for turn in range(1, 10_001):
        turn_keys([layer], 0, chunk, *rotation(17 * turn, frequencies))
        chain = rotate_keys(chain, 17, frequencies)
    exact = rotate_keys(keys.float(), 170_000, frequencies)

    def error(found):
        return ((found.float() - exact).norm() / exact.norm()).item()

    assert error(layer.keys) < 2**-8
    assert error(chain) > 10 * error(layer.keys)
