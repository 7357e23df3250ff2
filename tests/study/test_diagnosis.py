"""The diagnosis against transformers' own eager attention, the counterfactual against the stream itself, and the baseline."""

import threading

import pandas as pd
import pytest
import torch
from helpers import next_logits, processed, transformers_forward

from kvlib import EvictionConfig
from kvlib.lab.study.diagnosis import REGIONS, at_contiguous_positions, attention_by_region, explain
from kvlib.ops import language as language_module

MODES = ("keep", "remap", "compact", "unrotated")


@pytest.mark.parametrize("mode", [None, *MODES])
def test_shares_are_those_of_transformers_eager_attention(engine, model, frames, mode, monkeypatch):
    streamed = processed(engine, frames, EvictionConfig(220, position_mode=mode) if mode else None)
    before = streamed.cache_manager.fingerprint()
    table = attention_by_region(streamed, "What?")
    assert streamed.cache_manager.fingerprint() == before
    total = table.groupby(["layer", "head"])["share"].sum()
    assert len(total) == 3 * 4
    assert total.to_numpy() == pytest.approx(1, abs=1e-5)

    seen, language = [], model.model.language_model
    hooks = [layer.self_attn.register_forward_hook(lambda _m, _a, out: seen.append(out[1])) for layer in language.layers]
    model.set_attn_implementation("eager")
    monkeypatch.setattr(language_module, "run", transformers_forward)
    try:
        next_logits(streamed)
    finally:
        model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()
    assert len(seen) == 3
    sink = streamed.cache_manager.chunks[0].tokens
    for layer, weights in enumerate(seen):
        shares = table[(table["layer"] == layer) & (table["region"] == "sink")].sort_values("head")["share"]
        assert shares.to_numpy() == pytest.approx(weights[0, :, :, :sink].sum(-1).mean(-1).numpy(), abs=1e-5)
        entropies = table[(table["layer"] == layer) & (table["region"] == "sink")].sort_values("head")["entropy"]
        assert entropies.to_numpy() == pytest.approx(torch.special.entr(weights[0]).sum(-1).mean(-1).numpy(), abs=1e-4)


def test_the_distance_shows_the_hole(engine, frames):
    distance = {}
    for mode in ("keep", "remap"):
        streamed = processed(engine, frames, EvictionConfig(220, position_mode=mode))
        table = attention_by_region(streamed, "What?")
        assert set(table["region"]) == set(REGIONS)
        distance[mode] = table.groupby("region")["distance"].first()
    streamed = processed(engine, frames, None)
    spans = streamed.cache_manager.chunks
    assert distance["keep"]["sink"] == spans[-1].stop - spans[0].stop + 1
    assert distance["remap"]["sink"] < distance["keep"]["sink"]
    assert distance["remap"]["recent"] == distance["keep"]["recent"] == 1


def test_the_counterfactual_of_keep_is_what_remapping_would_have_given(engine, frames):
    """The first eviction of a remapping stream rotates the same keys: both then give the same logits."""
    keep, remap = (processed(engine, frames, EvictionConfig(220, position_mode=mode), 0) for mode in ("keep", "remap"))
    for seed in range(40):
        if keep.cache_manager.evictor.total_evictions:
            break
        for streamed in (keep, remap):
            streamed.append_video_chunk(frames(2, seed))
    assert keep.cache_manager.evictor.total_evictions == 1
    before, logits = keep.cache_manager.fingerprint(), next_logits(keep)
    sink, other = keep.cache_manager.chunks[0].tokens, at_contiguous_positions(keep)
    for ours, theirs in zip(other.cache_manager.cache.layers, remap.cache_manager.cache.layers, strict=True):
        torch.testing.assert_close(ours.keys[:, :, :sink], theirs.keys[:, :, :sink])
    assert torch.equal(other.cache_manager.positions, remap.cache_manager.positions)
    assert not torch.allclose(next_logits(other), logits, rtol=1e-3, atol=1e-3), "the hole must matter, or the test is blind"
    assert other.ask("What?", max_new_tokens=4, do_sample=False)[1]["new_tokens"] > 0
    assert keep.cache_manager.fingerprint() == before
    assert torch.equal(next_logits(keep), logits)


def test_the_counterfactual_is_a_stream_of_its_own(engine, frames):
    streamed, twin = (processed(engine, frames, EvictionConfig(220, position_mode="keep")) for _ in range(2))
    other = at_contiguous_positions(streamed)
    assert other is not streamed and other.model is streamed.model
    for seed in range(20, 30):
        other.append_video_chunk(frames(2, seed))
    assert streamed.cache_manager.fingerprint() == twin.cache_manager.fingerprint()
    assert torch.equal(next_logits(streamed), next_logits(twin))


@pytest.mark.parametrize("config", [None, EvictionConfig(220, position_mode="unrotated")], ids=["unbounded", "unrotated"])
def test_an_engine_without_holes_has_none_to_close(engine, frames, config):
    with pytest.raises(ValueError, match="no holes"):
        at_contiguous_positions(processed(engine, frames, config))


def test_attention_takes_no_notice_of_other_threads_on_the_model(engine, model, frames):
    """In the middle of the question's forward, another thread appends a chunk to another engine on the same model."""
    streamed, other = processed(engine, frames, None), engine()
    alone, main = attention_by_region(streamed, "What?"), threading.get_ident()

    def disturb(*_):
        if threading.get_ident() == main:
            thread = threading.Thread(target=lambda: other.append_video_chunk(frames()))
            thread.start()
            thread.join()

    hook = model.model.language_model.layers[1].mlp.register_forward_pre_hook(disturb)
    disturbed = attention_by_region(streamed, "What?")
    hook.remove()
    pd.testing.assert_frame_equal(disturbed, alone)
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
