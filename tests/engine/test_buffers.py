"""The buffers: what an eviction moves, how often they move to the front or grow, and keys that are re-rotated or rounded."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import append_states, next_logits, processed, random_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib import EvictionConfig, KVCacheManager, VideoStreamingInference
from kvlib.evictor import POSITION_MODES
from kvlib.ops.positions import rotate_keys
from kvlib.ops.storage import EIGHT_BIT, saturating_cast
from kvlib.steps import OverlappingMove, closed, placed, rerotated

SINK, CHUNK = 54, 16  # tokens of the first and of a later chunk of two frames of 56 x 84


def filled(sizes, layers: int = 2, dtype=torch.float32, stored=None) -> tuple[KVCacheManager, list]:
    """A manager that never evicts, with chunks of so many tokens, and the (keys, values) of each layer."""
    manager, kept = KVCacheManager(layers, kv_dtype=stored), [([], []) for _ in range(layers)]
    for number, tokens in enumerate(sizes):
        states = [tuple(random_keys(tokens, 100 * number + 2 * i + part).to(dtype) for part in (0, 1)) for i in range(layers)]
        append_states(manager, *states)
        for (keys, values), (new_keys, new_values) in zip(kept, states, strict=True):
            keys.append(new_keys)
            values.append(new_values)
    return manager, kept


def moved_tokens(state) -> int:
    """Tokens that the pending steps of `state` copy, summed over layers and divided by their number."""
    layers = len(state.buffers)
    return sum(step.length if isinstance(step, OverlappingMove) else step.length * layers for step in state.pending) // layers


@pytest.mark.parametrize("place", range(7))
def test_the_smaller_side_of_a_gap_moves(place):
    sizes = [54, 16, 16, 20, 16, 7, 30]
    manager, _ = filled(sizes)
    made = closed(manager.state, {place})
    assert moved_tokens(made) == min(sum(sizes[:place]), sum(sizes[place + 1 :]))
    assert made.stored == sum(sizes) - sizes[place]


def test_evicting_behind_a_sink_moves_the_sink_and_not_the_window(engine, frames):
    streamed = processed(engine, frames, EvictionConfig(SINK + 10 * CHUNK, position_mode="keep"), 11)
    manager = streamed.cache_manager
    made = manager.evictor.evict(manager.state, CHUNK)
    assert [chunk.index for chunk in made.chunks] == [0, *range(2, 11)]
    assert moved_tokens(made) == SINK
    assert (made.start, made.stop) == (manager.state.start + CHUNK, manager.state.stop)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), block=st.integers(1, 9), data=st.data())
def test_what_stays_is_what_it_was_whatever_goes(sizes, block, data):
    gone = data.draw(st.sets(st.integers(0, len(sizes) - 1), max_size=len(sizes) - 1))
    manager, kept = filled(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvlib.steps.MOVE_BLOCK", block)
        manager.current.state = closed(manager.state, gone)
    stays = [place for place in range(len(sizes)) if place not in gone]
    for layer, parts in zip(manager.cache.layers, kept, strict=True):
        for found, chunks in zip((layer.keys, layer.values), parts, strict=True):
            assert torch.equal(found, torch.cat([chunks[place] for place in stays], dim=2))
    assert [chunk.index for chunk in manager.chunks] == stays


@pytest.mark.parametrize("mode", ["keep", "remap"])
def test_a_tenth_of_the_budget_is_evicted_between_two_moves_to_the_front(engine, frames, mode):
    budget, streamed = 400, engine(EvictionConfig(400, position_mode=mode))
    evictions, moves, manager = 0, 0, streamed.cache_manager
    for seed in range(100):
        start, evicted = manager.state.start, manager.evictor.total_tokens_evicted
        streamed.append_video_chunk(frames(2, seed))
        evicted = manager.evictor.total_tokens_evicted - evicted
        evictions += evicted > 0
        moves += manager.state.start != start + evicted  # an eviction moves the sink up by what it frees
    assert evictions > 70
    assert 0 < moves <= evictions // (budget // 10 // CHUNK) + 1


def test_buffers_of_a_stream_without_a_budget_grow_by_a_factor():
    manager, lengths = KVCacheManager(1), []
    for number in range(400):
        append_states(manager, (random_keys(20, number), random_keys(20, number)))
        lengths.append(manager.state.room())
    allocations = len(set(lengths))
    assert lengths == sorted(lengths)
    assert allocations <= math.log(lengths[-1] / lengths[0], 1.2) + 1
    assert lengths[-1] <= 1.5 * (400 * 20 + 512)


def test_a_stream_with_a_budget_never_gets_other_buffers(engine, frames):
    streamed, pointers = engine(EvictionConfig(150)), set()
    for seed in range(30):
        streamed.append_video_chunk(frames(2, seed))
        pointers.add(tuple(buffer.data_ptr() for buffer in streamed.cache_manager.state.buffers))
    assert len(pointers) == 1


def rotate_to(manager: KVCacheManager, starts, frequencies) -> None:
    """Move the chunks of a stream to other positions, as an eviction does."""
    state = manager.state
    manager.current.state = placed(rerotated(state, state, starts, frequencies), starts)
    manager.current.settle()


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_layers_are_rotated_alike_however_many_at_once(model, monkeypatch, at_once):
    frequencies = model.model.language_model.rotary_emb.inv_freq
    monkeypatch.setattr("kvlib.steps.ROTATED_AT_ONCE", at_once * 2 * 5 * 16)
    manager, kept = filled([11, 5, 14], layers=3)
    rotate_to(manager, [0, 15, 20], frequencies)
    for layer, (keys, values) in zip(manager.cache.layers, kept, strict=True):
        turned = [keys[0], rotate_keys(keys[1], 4, frequencies), rotate_keys(keys[2], 4, frequencies)]
        assert torch.equal(layer.keys, torch.cat(turned, dim=2))
        assert torch.equal(layer.values, torch.cat(values, dim=2))
        assert sorted(layer.originals) == [1, 2], "a chunk that stays where it is needs no copy"
        assert torch.equal(layer.originals[1], keys[1])


def test_ten_thousand_rotations_in_bf16_do_not_drift():
    """One rounding, however many rotations; a chain of rotations is far off by then."""
    frequencies = 1e4 ** (-torch.arange(0, 16, 2) / 16)
    manager, kept = filled([8], layers=1, dtype=torch.bfloat16)
    keys = chain = kept[0][0][0]
    for number in range(1, 10_001):
        rotate_to(manager, [17 * number], frequencies)
        chain = rotate_keys(chain, 17, frequencies)
    exact = rotate_keys(keys.float(), 170_000, frequencies)

    def error(found):
        return ((found.float() - exact).norm() / exact.norm()).item()

    assert error(manager.cache.layers[0].keys) < 2**-8
    assert error(chain) > 10 * error(manager.cache.layers[0].keys)


def test_rotating_eight_bit_keys_does_not_drift(model):
    """From the stored originals, however often: the same as rotating there at once."""
    frequencies = model.model.language_model.rotary_emb.inv_freq
    (often, _), (once, _) = (filled([30], layers=1, stored=EIGHT_BIT) for _ in range(2))
    for step in range(1, 200):
        rotate_to(often, [7 * step], frequencies)
    rotate_to(once, [7 * 199], frequencies)
    assert torch.equal(often.cache.layers[0].keys.float(), once.cache.layers[0].keys.float())


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_eight_bits_take_a_quarter_of_fp32_and_answer_nearly_the_same(engine, model, processor, frames, mode):
    config = EvictionConfig(110, position_mode=mode)
    exact, rounded = engine(config), VideoStreamingInference(model, processor, "cpu", config, EIGHT_BIT)
    for seed in range(8):
        for streaming in (exact, rounded):
            streaming.append_video_chunk(frames(2, seed))
        assert rounded.cache_manager.chunks == exact.cache_manager.chunks
    assert 4 * rounded.get_cache_info()["cache_bytes"] == exact.get_cache_info()["cache_bytes"]
    found, expected = next_logits(rounded), next_logits(exact)
    assert 0 < (found - expected).norm() / expected.norm() < 0.2
    before = rounded.cache_manager.fingerprint()
    stored = [layer.keys.view(torch.uint8).clone() for layer in rounded.cache_manager.cache.layers]
    rounded.ask("What?", max_new_tokens=4, do_sample=False)
    assert rounded.cache_manager.fingerprint() == before
    for layer, keys in zip(rounded.cache_manager.cache.layers, stored, strict=True):
        assert torch.equal(layer.keys.view(torch.uint8), keys)


def test_eight_bits_hold_their_largest_number_for_what_is_larger():
    states = torch.tensor([1e6, -1e6, 448.0, 0.1])
    found = saturating_cast(states, EIGHT_BIT).float().tolist()
    assert found == [448.0, -448.0, 448.0, pytest.approx(0.1, rel=0.07)]
    assert torch.equal(saturating_cast(states, torch.float32), states)


def test_a_step_that_is_done_twice_changes_nothing_more():
    """What an exception cuts off is done again by the next call: a step must not read what it has written."""
    manager, kept = filled([9, 4, 30])
    manager.current.state = closed(manager.state, {1})
    while manager.state.pending:
        state = manager.state
        step, *others = state.pending
        step.run(state)
        following = step.run(state)
        manager.current.state = replace(state, pending=tuple(others) if following is None else (following, *others))
    for layer, (keys, _) in zip(manager.cache.layers, kept, strict=True):
        assert torch.equal(layer.keys, torch.cat([keys[0], keys[2]], dim=2))
