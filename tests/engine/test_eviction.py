"""What an eviction leaves: the tokens, their positions and keys, and never more than the budget."""

import pytest
import torch
from helpers import QUESTION_TURN, next_logits, processed
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.evictor import POSITION_MODES
from kvlib.ops.positions import rotate_keys
from kvlib.policies import POLICIES

FIRST, LATER = 54, 16  # tokens of the chunks of two frames of 56 x 84: the first has the system turn


def rebuilt_logits(engine, chunks, kept, remap: bool) -> torch.Tensor:
    """The oracle "prune, then RoPE".

    The un-rotated keys of a full stream are recorded as the projections gave them, cut to the `kept` chunks and rotated by
    transformers at their positions: the old ones, or with `remap` the sink's moved up to the window.
    """
    full, raw, ends = engine(), [[] for _ in range(3)], []
    language = full.model.model.language_model
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out, i=index: raw[i].append(out))
        for index, layer in enumerate(language.layers)
    ]
    for chunk in chunks:
        full.append_video_chunk(chunk)
        ends.append(full.cache_manager.get_seq_length())
    for hook in hooks:
        hook.remove()
    spans, starts = full.cache_manager.chunks, [0, *ends[:-1]]
    index = torch.cat([torch.arange(starts[i], ends[i]) for i in kept])
    at = full.cache_manager.positions.clone()
    if remap:
        at[:, : ends[0]] += spans[kept[1]].start - spans[0].stop
    cos, sin = language.rotary_emb(torch.zeros(1), at[:, None, index])
    cache = DynamicCache()
    for i, layer in enumerate(full.cache_manager.cache.layers):
        keys = torch.cat(raw[i], dim=1)[:, index].unflatten(-1, (2, -1)).transpose(1, 2)
        cache.update(apply_rotary_pos_emb(keys, keys, cos, sin)[1], layer.values[:, :, index], i)
    ids = full.processor.tokenizer(QUESTION_TURN, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        at = torch.arange(ids.shape[1]).expand(3, 1, -1) + full.cache_manager.next_position
        embeddings = full.model.get_input_embeddings()(ids)
        hidden = language(inputs_embeds=embeddings, position_ids=at, past_key_values=cache)
        return full.model.lm_head(hidden.last_hidden_state[:, -1])[0]


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_eviction_equals_prune_then_rope(engine, frames, mode):
    """Exact because all five chunks are computed before the only eviction: full and evicting stream agree on them."""
    chunks = [frames(2, seed) for seed in range(5)]
    evicting = processed(engine, frames, EvictionConfig(FIRST + 4 * LATER, position_mode=mode), 5)
    before = next_logits(evicting)
    evicting.cache_manager.make_room(2 * LATER)
    assert [span.index for span in evicting.cache_manager.chunks] == [0, 3, 4]
    after = next_logits(evicting)
    expected = rebuilt_logits(engine, chunks, [0, 3, 4], remap=mode != "keep")
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, rtol=1e-3, atol=1e-3), "the eviction must matter, or the test is blind"


def test_remap_makes_the_survivors_contiguous_and_keep_leaves_the_hole(engine, frames):
    gaps = {}
    for mode in ("keep", "remap"):
        spans = processed(engine, frames, EvictionConfig(110, position_mode=mode), 8).cache_manager.chunks
        gaps[mode] = [b.start - a.stop for a, b in zip(spans, spans[1:], strict=False)]
        assert spans[-1].index == 7
    assert gaps["keep"][0] > 0
    assert set(gaps["keep"][1:]) == {0} == set(gaps["remap"])


def test_remap_is_the_default():
    assert EvictionConfig(110).position_mode == "remap"


def test_remapping_rotates_the_sink_from_its_original_keys(engine, frames):
    """After many evictions the sink's keys are one rotation of the first ones, not a chain of rotations."""
    streamed = engine(EvictionConfig(200, position_mode="remap"))
    streamed.append_video_chunk(frames(2, 0))
    first = [layer.keys.clone() for layer in streamed.cache_manager.cache.layers]
    for seed in range(1, 20):
        streamed.append_video_chunk(frames(2, seed))
    manager = streamed.cache_manager
    assert manager.evictor.total_evictions > 5
    assert manager.chunks[0].start > 0
    for keys, layer in zip(first, manager.cache.layers, strict=True):
        expected = rotate_keys(keys, manager.chunks[0].start, manager.evictor.inverse_frequencies)
        assert torch.equal(layer.keys[:, :, : keys.shape[2]], expected)


@st.composite
def configurations(draw):
    budget = draw(st.integers(60, 400))
    sink = draw(st.integers(0, budget // 2))
    return EvictionConfig(
        budget,
        sink_size=sink,
        window_size=draw(st.one_of(st.just(0), st.integers(1, budget - sink))),
        policy=draw(st.sampled_from([*POLICIES])),
        position_mode=draw(st.sampled_from(POSITION_MODES)),
        eviction_interval=draw(st.integers(1, 3)),
    )


@settings(deadline=None, max_examples=40)
@given(config=configurations(), sizes=st.lists(st.integers(1, 6), min_size=2, max_size=12))
def test_no_configuration_stores_more_than_it_allows(model, processor, config, sizes):
    streamed, stored, held = VideoStreamingInference(model, processor, "cpu", config), [], None
    manager = streamed.cache_manager
    for seed, count in enumerate(sizes):
        before, seen = manager.get_seq_length(), manager.chunks_seen
        try:
            streamed.append_video_chunk(torch.full((count, 56, 84, 3), seed * 9, dtype=torch.uint8))
        except ValueError as error:
            assert "does not fit beside a sink" in str(error)
            assert (manager.get_seq_length(), manager.chunks_seen) == (before, seen)
            continue
        limit = allowed(config, stored)
        stored.append(manager.chunks[-1].tokens)
        info = streamed.get_cache_info()
        assert info["cache_seq_length"] == sum(span.tokens for span in manager.chunks) <= config.max_cache_tokens
        assert info["cache_seq_length"] <= limit
        sink = sink_chunks(config, stored)
        assert [span.index for span in manager.chunks[:sink]] == list(range(sink)), "the sink stays"
        assert manager.chunks[-1].index == len(stored) - 1, "the newest chunk stays"
        assert info["cache_seq_length"] + info["eviction_stats"]["total_tokens_evicted"] == info["tokens_seen"] == sum(stored)
        layers = manager.cache.layers
        assert {layer.keys.shape[2] for layer in layers} == {manager.positions.shape[1]} == {info["cache_seq_length"]}
        originals = sum(keys.nbytes for layer in layers for keys in layer.originals.values())
        assert originals <= sum(layer.keys.nbytes for layer in layers)
        held = held or info["cache_bytes"]
        assert info["cache_bytes"] == held + originals, "buffers never grow"


def sink_chunks(config, stored: list[int]) -> int:
    """How many of the first chunks, of `stored` tokens each, form the sink."""
    count = 1
    while count < len(stored) and sum(stored[:count]) < config.sink_size:
        count += 1
    return count


def allowed(config, stored: list[int]) -> int:
    """The most tokens that may be stored after one more chunk than those of `stored` tokens."""
    if not config.window_size or not stored:
        return config.max_cache_tokens
    return min(config.max_cache_tokens, sum(stored[: sink_chunks(config, stored)]) + config.window_size)


def test_the_window_bounds_what_stays_behind_the_sink(engine, frames):
    streamed = engine(EvictionConfig(400, window_size=2 * LATER + 3))
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
        assert [span.index for span in streamed.cache_manager.chunks] == sorted({0, max(seed - 1, 0), seed})
    assert streamed.cache_manager.evictor.effective_window_size == 2 * LATER + 3
    assert streamed.get_cache_info()["eviction_stats"]["window_tokens"] == 2 * LATER + 3


def test_a_window_never_raises_the_budget(engine, frames):
    """The sink turns out larger than was asked for: sink and window together exceed the budget."""
    streamed = engine(EvictionConfig(100, sink_size=10, window_size=90))
    for seed in range(6):
        assert streamed.append_video_chunk(frames(2, seed))["cache_seq_length"] <= 100


def test_an_interval_evicts_less_often_and_more_at_once(engine, frames):
    evictions = {}
    for interval in (1, 2):
        streamed = processed(engine, frames, EvictionConfig(300, eviction_interval=interval), 36)
        evictions[interval] = streamed.cache_manager.evictor.total_evictions
    assert evictions == {1: 20, 2: 10}  # 16 chunks fit


def test_the_sink_is_the_first_chunk_unless_more_is_asked_for(engine, frames):
    evictor = processed(engine, frames, EvictionConfig(400), 2).cache_manager.evictor
    assert (evictor.sink_chunks, evictor.effective_sink_size, evictor.effective_window_size) == (1, FIRST, 400 - FIRST)
    assert evictor.avg_chunk_tokens == LATER
    wider = processed(engine, frames, EvictionConfig(200, sink_size=FIRST + 1), 20).cache_manager
    assert wider.evictor.effective_sink_size == FIRST + LATER
    assert [span.index for span in wider.chunks[:2]] == [0, 1]
    assert wider.evictor.total_evictions > 0


def test_the_original_names_of_the_evictors_fields_stay_readable(engine, frames):
    evictor = processed(engine, frames, EvictionConfig(400), 3).cache_manager.evictor
    assert evictor._first_chunk_recorded and evictor._sink_chunks == 1 and evictor._avg_chunk_tokens == LATER
