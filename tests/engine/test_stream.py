"""The engine against transformers' own forward, and the promise that a question leaves no trace."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib import stream as stream_module
from kvlib.cache import ChunkSpan, StreamLayer, fitting, turn_keys
from kvlib.ops.positions import rotation
from kvlib.policies import POLICIES
from kvlib.video import patchify


def next_logits(engine) -> torch.Tensor:
    """Logits after a question on the stream so far, without a trace: [vocabulary]."""
    snapshot = engine.cache_manager.take_snapshot()
    with torch.no_grad():
        logits = engine._step(engine._tokens("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"))[0]
    engine.cache_manager.restore_snapshot(snapshot)
    return logits


def fingerprint(engine) -> str:
    """The manager's own, and a second one that shares no code with it: every field found by `vars`, every tensor by itself."""
    manager = engine.cache_manager
    fields = {key: value for key, value in vars(manager).items() if key not in ("cache", "evictor")}
    evictor = dict(vars(manager.evictor)) if manager.evictor else None
    tensors = [
        (t.data_ptr(), hashlib.sha256(t.numpy().tobytes()).hexdigest())
        for layer in manager.cache.layers
        for t in (layer.keys, layer.values, *layer.originals.values())
        if t is not None
    ]
    return repr((manager.fingerprint(), fields, evictor, tensors, engine.get_cache_info()))


def one_shot_logits(model, processor, chunks) -> torch.Tensor:
    """What transformers' whole model says to the same turns in one forward, with its own positions and masks."""
    patches, grids, text = [], [], "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for chunk in chunks:
        part, grid = patchify(chunk, processor.image_processor, "cpu")
        patches.append(part)
        grids.append(grid)
        pads = "<|video_pad|>" * (grid[0] * grid[1] * grid[2] // 4)
        text += f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|><|im_end|>\n"
    text += "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model(
            input_ids=ids,
            mm_token_type_ids=(ids == model.config.video_token_id) * 2,
            pixel_values_videos=torch.cat(patches),
            video_grid_thw=torch.tensor(grids),
            second_per_grid_ts=torch.ones(len(chunks)),
        )
    return out.logits[0, -1]


@pytest.mark.parametrize("sizes", [[2], [2, 4, 2], [1, 3, 6, 2]])
def test_streaming_equals_one_forward(engine, model, processor, frames, sizes):
    chunks = [frames(count, seed, 112, 168) for seed, count in enumerate(sizes)]
    streamed = engine()
    for chunk in chunks:
        streamed.append_video_chunk(chunk)
    expected = one_shot_logits(model, processor, chunks)
    torch.testing.assert_close(next_logits(streamed), expected, rtol=1e-4, atol=1e-4)
    model.model.rope_deltas = None


def rebuilt_logits(model, engine, kept, remap: bool) -> torch.Tensor:
    """The oracle "prune, then RoPE".

    A full stream's keys are un-rotated by recomputing them from the layer inputs of that stream, cut to the `kept` chunks
    and rotated afresh at their positions: the old ones, or with `remap` the sink's moved up to the window.
    """
    full = VideoStreamingInference(model, engine.processor, "cpu")
    raw, hooks, ends, positions = [[] for _ in range(3)], [], [], []
    language = model.model.language_model
    for index, layer in enumerate(language.layers):
        hooks.append(layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out, i=index: raw[i].append(out)))
    original = language.rotary_emb.forward
    try:
        language.rotary_emb.forward = lambda x, at: positions.append(at) or original(x, at)
        for chunk in engine.watched:
            full.append_video_chunk(chunk)
            ends.append(full.cache_manager.get_seq_length())
    finally:
        language.rotary_emb.forward = original
        for hook in hooks:
            hook.remove()
    spans = full.cache_manager.chunks
    starts = [0, *ends[:-1]]
    index = torch.cat([torch.arange(starts[i], ends[i]) for i in kept])
    at = torch.cat(positions, dim=-1)
    if remap:
        at = at.clone()
        at[..., : ends[0]] += spans[kept[1]].start - spans[0].stop
    cos, sin = original(torch.zeros(1), at[..., index])
    cache = DynamicCache()
    for i, layer in enumerate(full.cache_manager.cache.layers):
        keys = torch.cat(raw[i], dim=1)[:, index].unflatten(-1, (2, -1)).transpose(1, 2)
        cache.update(apply_rotary_pos_emb(keys, keys, cos, sin)[1], layer.values[:, :, index], i)
    ids = engine._tokens("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n")
    with torch.no_grad():
        at = torch.arange(ids.shape[1]).expand(3, 1, -1) + full.cache_manager.next_position
        hidden = language(inputs_embeds=model.get_input_embeddings()(ids), position_ids=at, past_key_values=cache)
    return model.lm_head(hidden.last_hidden_state[:, -1])[0]


@pytest.mark.parametrize("mode", ["keep", "remap"])
def test_eviction_equals_prune_then_rope(engine, model, frames, mode):
    """With single-layer attention inputs unaffected by eviction this is exact only if nothing but the kept keys is read:
    the two newest chunks are computed before the only eviction, so full and evicted stream agree on them."""
    chunks = [frames(2, seed) for seed in range(5)]
    sized = engine()
    for chunk in chunks:
        sized.append_video_chunk(chunk)
    tokens = [span.tokens for span in sized.cache_manager.chunks]
    evicting = engine(EvictionConfig(sum(tokens), position_mode=mode))
    evicting.watched = chunks
    for chunk in chunks:
        evicting.append_video_chunk(chunk)
    before = next_logits(evicting)
    evicting.cache_manager.make_room(2 * tokens[1])
    assert [span.index for span in evicting.cache_manager.chunks] == [0, 3, 4]
    after = next_logits(evicting)
    expected = rebuilt_logits(model, evicting, [0, 3, 4], remap=mode == "remap")
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, rtol=1e-3, atol=1e-3), "the eviction must matter, or the test is blind"


def test_remap_makes_the_survivors_contiguous_and_keep_leaves_the_hole(engine, frames):
    gaps = {}
    for mode in ("keep", "remap"):
        streamed = engine(EvictionConfig(110, position_mode=mode))
        for seed in range(8):
            streamed.append_video_chunk(frames(2, seed))
        spans = streamed.cache_manager.chunks
        gaps[mode] = [b.start - a.stop for a, b in zip(spans, spans[1:], strict=False)]
        assert spans[-1].index == 7
    assert gaps["keep"][0] > 0
    assert set(gaps["keep"][1:]) == {0} == set(gaps["remap"])


def test_remapping_turns_the_sink_from_its_original_keys(engine, frames):
    """After many evictions the sink's keys are one rotation of the first ones, not a chain of rotations."""
    from kvlib.ops.positions import rotate_keys

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


@settings(deadline=None, max_examples=25)
@given(
    budget=st.integers(100, 400),
    interval=st.integers(1, 3),
    mode=st.sampled_from(["keep", "remap", "compact", "unrotated"]),
    policy=st.sampled_from([*POLICIES]),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=12),
)
def test_length_and_bytes_never_exceed_the_budget(model, processor, budget, interval, mode, policy, sizes):
    config = EvictionConfig(budget, policy=policy, position_mode=mode, eviction_interval=interval)
    streamed = VideoStreamingInference(model, processor, "cpu", config)
    held = None
    for seed, count in enumerate(sizes):
        pixels = torch.full((count, 56, 84, 3), seed * 9, dtype=torch.uint8)
        before = streamed.cache_manager.get_seq_length()
        try:
            streamed.append_video_chunk(pixels)
        except ValueError as error:
            assert "max_cache_tokens" in str(error)
            assert streamed.cache_manager.get_seq_length() == before
            continue
        info = streamed.get_cache_info()
        assert info["cache_seq_length"] <= budget
        assert info["cache_seq_length"] == sum(span.tokens for span in streamed.cache_manager.chunks)
        assert streamed.cache_manager.chunks[0].index == 0, "the sink stays"
        assert info["cache_seq_length"] + info["eviction_stats"]["total_tokens_evicted"] == info["tokens_seen"]
        layers = streamed.cache_manager.cache.layers
        originals = sum(keys.nbytes for layer in layers for keys in layer.originals.values())
        assert originals <= sum(layer.keys.nbytes for layer in layers)
        held = held or info["cache_bytes"]
        assert info["cache_bytes"] == held + originals, "buffers never grow"


def test_an_interval_evicts_less_often_and_more_at_once(engine, frames):
    evictions = {}
    for interval in (1, 2):
        streamed = engine(EvictionConfig(300, eviction_interval=interval))
        for seed in range(20):
            streamed.append_video_chunk(frames(2, seed))
        evictions[interval] = streamed.cache_manager.evictor.total_evictions
    assert 0 < evictions[2] <= evictions[1] // 2 + 1


@pytest.mark.parametrize("mode", [None, "keep", "remap", "compact", "unrotated"])
@pytest.mark.parametrize("sample", [False, True])
def test_ask_leaves_no_trace(engine, frames, mode, sample):
    streamed = engine(EvictionConfig(110, position_mode=mode) if mode else None)
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
    before, logits = fingerprint(streamed), next_logits(streamed)
    _, metrics = streamed.ask("What?", max_new_tokens=12, do_sample=sample, seed=3)
    assert metrics["new_tokens"] > 0
    assert metrics["ttft"] > 0
    assert fingerprint(streamed) == before
    assert torch.equal(next_logits(streamed), logits)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_ask_leaves_no_trace_when_it_is_cut_off(engine, model, frames, monkeypatch, error, after):
    """Cut off inside the second layer of a forward, so that the layers are of unequal length at that moment."""
    streamed = engine(EvictionConfig(110, position_mode="remap"))
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
    before, calls = fingerprint(streamed), []

    def fail(*_):
        calls.append(1)
        if len(calls) > after:
            raise error("cut off")

    hook = model.model.language_model.layers[1].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(error, match="cut off"):
            streamed.ask("What?", max_new_tokens=12, do_sample=False)
    finally:
        hook.remove()
    assert fingerprint(streamed) == before


def test_a_chunk_that_is_cut_off_is_not_in_the_cache(engine, model, frames):
    streamed, other = engine(), engine()
    for seed in range(3):
        streamed.append_video_chunk(frames(2, seed))
        other.append_video_chunk(frames(2, seed))
    before = fingerprint(streamed)

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = model.model.language_model.layers[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        streamed.append_video_chunk(frames(2, 3))
    hook.remove()
    assert fingerprint(streamed) == before
    streamed.append_video_chunk(frames(2, 3))
    other.append_video_chunk(frames(2, 3))
    assert torch.equal(next_logits(streamed), next_logits(other))


def test_the_fingerprint_sees_one_changed_number(engine, frames):
    streamed = engine(EvictionConfig(110))
    streamed.append_video_chunk(frames())
    manager = streamed.cache_manager
    before = manager.fingerprint()
    for tensor in (manager.cache.layers[1].keys, manager.cache.layers[2].values):
        tensor[0, 1, 3, 5] += 1
        assert manager.fingerprint() != before
        tensor[0, 1, 3, 5] -= 1
    assert manager.fingerprint() == before
    manager.evictor.total_tokens_evicted += 1
    assert manager.fingerprint() != before


def test_snapshots_copy_no_key(engine, frames):
    streamed = engine()
    streamed.append_video_chunk(frames())
    snapshot = streamed.cache_manager.take_snapshot()
    assert not any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in vars(snapshot).values())
    pointer = streamed.cache_manager.cache.layers[0].keys.data_ptr()
    streamed.ask("What?", max_new_tokens=3)
    assert streamed.cache_manager.cache.layers[0].keys.data_ptr() == pointer


@pytest.mark.parametrize("budget", [None, 110])
def test_an_ordinary_question_never_moves_the_stream(engine, frames, budget):
    streamed = engine(EvictionConfig(budget) if budget else None)
    for seed in range(60):
        streamed.append_video_chunk(frames(2, seed))
        pointers = [layer.keys.data_ptr() for layer in streamed.cache_manager.cache.layers]
        streamed.ask("What? " * 60, max_new_tokens=1, do_sample=False)
        assert [layer.keys.data_ptr() for layer in streamed.cache_manager.cache.layers] == pointers


def test_a_snapshot_older_than_an_eviction_is_refused(engine, frames):
    streamed = engine(EvictionConfig(150))
    streamed.append_video_chunk(frames())
    snapshot = streamed.cache_manager.take_snapshot()
    for seed in range(9):
        streamed.append_video_chunk(frames(2, seed))
    before = fingerprint(streamed)
    with pytest.raises(RuntimeError, match="take a new snapshot"):
        streamed.cache_manager.restore_snapshot(snapshot)
    assert fingerprint(streamed) == before


def test_two_engines_on_one_model_do_not_disturb_each_other(engine, model, frames):
    alone = engine()
    for seed in range(4):
        alone.append_video_chunk(frames(2, seed))
    one, two = engine(), engine(EvictionConfig(110, position_mode="remap"))
    for seed in range(4):
        one.append_video_chunk(frames(2, seed))
        two.append_video_chunk(frames(4, 50 + seed, 84, 56))
        two.ask("What?", max_new_tokens=2)
    assert torch.equal(next_logits(one), next_logits(alone))


def test_the_model_is_left_as_it_was(engine, model, processor, frames):
    ids = processor.tokenizer("hello", return_tensors="pt")["input_ids"]
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    model.model.rope_deltas = None
    attributes = {key: id(value) for key, value in vars(model.model).items()}
    streamed = engine(EvictionConfig(110))
    for seed in range(5):
        streamed.append_video_chunk(frames(2, seed))
    streamed.ask("What?", max_new_tokens=3)
    assert {key: id(value) for key, value in vars(model.model).items()} == attributes
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), before)
    model.model.rope_deltas = None


def test_a_seed_repeats_a_sampled_answer_and_leaves_torch_alone(engine, frames):
    streamed = engine()
    streamed.append_video_chunk(frames())
    state = torch.get_rng_state()
    options = dict(max_new_tokens=20, temperature=2.0)
    answers = {seed: streamed.ask("What?", seed=seed, **options)[0] for seed in range(4)}
    assert len(set(answers.values())) > 1
    assert streamed.ask("What?", seed=2, **options)[0] == answers[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_greedy_decoding_equals_transformers_generate(engine, model, processor, frames):
    """Token by token the likeliest of the one-shot logits."""
    streamed = engine()
    chunk = frames()
    streamed.append_video_chunk(chunk)
    token = one_shot_logits(model, processor, [chunk]).argmax()
    model.model.rope_deltas = None
    answer, metrics = streamed.ask("What?", max_new_tokens=1, do_sample=False)
    assert answer == processor.tokenizer.decode([token], skip_special_tokens=True).strip()
    assert metrics["new_tokens"] == 1


def test_a_question_longer_than_the_room_makes_room(engine, frames):
    streamed = engine(EvictionConfig(110))
    for seed in range(6):
        streamed.append_video_chunk(frames(2, seed))
    logits = next_logits(streamed)
    streamed.ask("What? " * 300, max_new_tokens=2, do_sample=False)
    assert torch.equal(next_logits(streamed), logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, f: e.append_video_chunk([]), "zero frames"),
        (lambda e, f: e.append_video_chunk(torch.empty(0, 56, 84, 3, dtype=torch.uint8)), "zero frames"),
        (lambda e, f: e.append_video_chunk([f(1)[0].numpy(), f(1, 0, 84, 56)[0].numpy()]), r"mixed sizes .*\(56, 84\)"),
        (lambda e, f: e.append_video_chunk(f().float()), "torch.float32"),
        (lambda e, f: e.append_video_chunk(f()[..., :1]), r"\(2, 56, 84, 1\)"),
        (lambda e, f: e.append_video_chunk(f(), fps=0), "fps=0"),
        (lambda e, f: e.ask(""), "question=''"),
        (lambda e, f: e.ask("What?", max_new_tokens=0), "max_new_tokens=0"),
        (lambda e, f: e.ask("What?", temperature=0.0), "temperature=0.0"),
    ],
)
def test_bad_input_is_named_and_leaves_the_engine_usable(engine, frames, call, message):
    streamed = engine()
    streamed.append_video_chunk(frames())
    before = fingerprint(streamed)
    with pytest.raises(ValueError, match=message):
        call(streamed, frames)
    assert fingerprint(streamed) == before
    streamed.append_video_chunk(frames())


def test_asking_before_watching_is_refused(engine):
    with pytest.raises(ValueError, match="append_video_chunk before ask"):
        engine().ask("What?")


def test_a_budget_below_sink_and_one_chunk_is_refused(engine, frames):
    with pytest.raises(ValueError, match="max_cache_tokens=20"):
        engine(EvictionConfig(20)).append_video_chunk(frames())
    streamed = engine(EvictionConfig(80))
    first = streamed.append_video_chunk(frames())["cache_seq_length"]
    with pytest.raises(ValueError, match=f"sink of {first} .*raise max_cache_tokens to at least"):
        streamed.append_video_chunk(frames(6))
    assert streamed.get_cache_info()["cache_seq_length"] == first
    assert streamed.ask("What?", max_new_tokens=2)[1]["new_tokens"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(max_cache_tokens=0), "max_cache_tokens=0"),
        (dict(max_cache_tokens=100, eviction_interval=0), "eviction_interval=0"),
        (dict(max_cache_tokens=100, sink_size=-1), "sink_size=-1"),
        (dict(max_cache_tokens=100, sink_size=60, window_size=60), "sink_size=60"),
        (dict(max_cache_tokens=100, policy="magic"), "policy='magic'.*sink_window, uniform, importance"),
        (dict(max_cache_tokens=100, position_mode="magic"), "position_mode='magic'.*keep, remap, compact, unrotated"),
    ],
)
def test_unusable_configurations_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EvictionConfig(**options)


def test_the_sink_is_the_first_chunk_unless_more_is_asked_for(engine, frames):
    found = engine(EvictionConfig(400))
    first = found.append_video_chunk(frames())["cache_seq_length"]
    second = found.append_video_chunk(frames())["cache_seq_length"] - first
    evictor = found.cache_manager.evictor
    assert evictor._first_chunk_recorded
    assert (evictor.effective_sink_size, evictor.effective_window_size) == (first, 400 - first)
    assert evictor._avg_chunk_tokens == second
    wider = engine(EvictionConfig(200, sink_size=first + 1))
    for seed in range(20):
        wider.append_video_chunk(frames(2, seed))
    assert wider.cache_manager.evictor.effective_sink_size == first + second
    assert [span.index for span in wider.cache_manager.chunks[:2]] == [0, 1]
    assert wider.cache_manager.evictor.total_evictions > 0


def test_engines_can_share_what_the_vision_tower_saw(engine, frames):
    alone, leader, follower = engine(), engine(), engine(EvictionConfig(110))
    for seed in range(6):
        chunk = leader.encode(frames(2, seed))
        alone.append_video_chunk(frames(2, seed))
        leader.append_encoded(chunk)
        follower.append_encoded(chunk)
    assert torch.equal(next_logits(alone), next_logits(leader))
    assert follower.cache_manager.evictor.total_evictions > 0
    before = fingerprint(leader)
    with pytest.raises(ValueError, match="first chunk begins with the system turn"):
        leader.append_encoded(engine().encode(frames()))
    with pytest.raises(ValueError, match="first chunk begins with the system turn"):
        engine().append_encoded(chunk)
    assert fingerprint(leader) == before


def test_the_default_question_is_the_briefs():
    assert stream_module.DEFAULT_QUESTION.startswith("Read all text, lyrics, subtitles, or captions")


@pytest.mark.parametrize("mode", ["keep", "remap", "compact", "unrotated"])
def test_eight_bits_take_a_quarter_of_fp32_and_answer_nearly_the_same(engine, model, processor, frames, mode):
    config = EvictionConfig(110, position_mode=mode)
    exact, rounded = engine(config), VideoStreamingInference(model, processor, "cpu", config, torch.float8_e4m3fn)
    for seed in range(8):
        for streaming in (exact, rounded):
            streaming.append_video_chunk(frames(2, seed))
        assert rounded.cache_manager.chunks == exact.cache_manager.chunks
    assert 4 * rounded.get_cache_info()["cache_bytes"] == exact.get_cache_info()["cache_bytes"]
    found, expected = next_logits(rounded), next_logits(exact)
    assert 0 < (found - expected).norm() / expected.norm() < 0.2
    before = fingerprint_of_bytes(rounded)
    rounded.ask("What?", max_new_tokens=4, do_sample=False)
    assert fingerprint_of_bytes(rounded) == before


def fingerprint_of_bytes(engine) -> tuple:
    manager = engine.cache_manager
    return manager.fingerprint(), [layer.keys.view(torch.uint8).clone().numpy().tobytes() for layer in manager.cache.layers]


def test_eight_bits_hold_their_largest_number_for_what_is_larger():
    states = torch.tensor([1e6, -1e6, 448.0, 0.1])
    assert fitting(states, torch.float8_e4m3fn).float().tolist() == [448.0, -448.0, 448.0, pytest.approx(0.1, rel=0.07)]
    assert torch.equal(fitting(states, torch.float32), states)


def test_turning_eight_bit_keys_does_not_drift(model):
    """From the stored originals, however often: one rounding more than turning once, and the same as turning there at once."""
    frequencies = model.model.language_model.rotary_emb.inv_freq
    chunk = ChunkSpan(0, 30, 0, 30, 0)
    often, once = (StreamLayer(40, torch.float8_e4m3fn) for _ in range(2))
    keys = torch.randn(1, 2, 30, 16, generator=torch.Generator().manual_seed(0))
    for layer in (often, once):
        layer.update(keys, keys)
    for step in range(1, 200):
        turn_keys([often], 0, chunk, *rotation(7 * step, frequencies))
    turn_keys([once], 0, chunk, *rotation(7 * 199, frequencies))
    assert torch.equal(often.keys.float(), once.keys.float())


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_layers_turned_at_once_are_as_turned_alone(model, monkeypatch, at_once):
    frequencies, chunk = model.model.language_model.rotary_emb.inv_freq, ChunkSpan(7, 5, 2, 7, 2)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 2, 30, 16, generator=generator) for _ in range(3)]
    together, alone = ([StreamLayer(40) for _ in states] for _ in range(2))
    for layers in (together, alone):
        for layer, keys in zip(layers, states, strict=True):
            layer.update(keys, keys)
    for layer in alone:
        turn_keys([layer], 11, chunk, *rotation(4, frequencies))
    monkeypatch.setattr("kvlib.cache.TURNED", at_once * 2 * 5 * 16)
    turn_keys(together, 11, chunk, *rotation(4, frequencies))
    for mine, other, keys in zip(together, alone, states, strict=True):
        assert torch.equal(mine.keys, other.keys) and torch.equal(mine.originals[7], keys[:, :, 11:16])
        assert torch.equal(mine.values, keys)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, "fp8"])
def test_another_dtype_of_the_cache_is_refused(model, processor, dtype):
    with pytest.raises(ValueError, match="kv_dtype=.*float8_e4m3fn.*None"):
        VideoStreamingInference(model, processor, "cpu", kv_dtype=dtype)
