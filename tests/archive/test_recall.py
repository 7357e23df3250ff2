"""Recall: what a question sees is what a cache rebuilt by transformers' own rotation and attention would show it."""

from types import SimpleNamespace

import pytest
import torch
from helpers import QUESTION, QUESTION_TURN
from transformers import DynamicCache

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.archive.chunks import KeyStatistics, key_blocks
from kvlib.evictor import POSITION_MODES
from kvlib.ops.positions import chunk_positions

DROPPING = dict(count=8, max_cache_tokens=260, recall=80)  # chunks of four grids, of which tokens are dropped


def transformers_logits(model, processor, parts, next_position: int) -> torch.Tensor:
    """Logits of a question behind keys and values that stand in a transformers cache in the order of `parts`: the states as
    they were computed [layers, 2, KV heads, n, head dim], and their positions then and now, int64 [3, n]."""
    language = model.model.language_model

    def rotation(positions):
        cos, sin = language.rotary_emb(torch.zeros(1, positions.shape[1], 1), positions[:, None])
        return cos[0], sin[0]

    def rotate(keys, cos, sin):
        low, high = keys.chunk(2, -1)
        return keys * cos + torch.cat([-high, low], -1) * sin

    cache = DynamicCache()
    for layer in range(len(language.layers)):
        keys, values = [], []
        for states, then, now in parts:
            (cos, sin), (new_cos, new_sin) = rotation(then), rotation(now)
            plain = rotate(states[layer, 0], cos, -sin)
            keys.append(rotate(plain, new_cos, new_sin))
            values.append(states[layer, 1])
        cache.update(torch.cat(keys, 1)[None], torch.cat(values, 1)[None], layer)
    ids = processor.tokenizer(QUESTION_TURN, return_tensors="pt")["input_ids"]
    positions = torch.arange(next_position, next_position + ids.shape[1]).expand(3, 1, -1)
    embeddings = model.get_input_embeddings()(ids)
    with torch.no_grad():
        hidden = language(
            inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return model.lm_head(hidden[:, -1])


def original_parts(engine) -> dict[int, tuple]:
    """Of every chunk the states as computed, by transformers' layout, its spread, and where it started."""
    manager = engine.cache_manager
    unrotated = manager.state.config.position_mode == "unrotated"
    return {
        chunk.span.index: (chunk.load(), chunk.spread, 0 if unrotated else chunk.span.origin, unrotated)
        for chunk in manager.state.archived
    }


@pytest.mark.parametrize("policy", ["sink_window", "uniform", "importance"])
@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("drop_static", [0.0, 0.03])
def test_logits_are_those_of_a_rebuilt_cache(streamed, model, processor, mode, policy, drop_static):
    """Sink and recalled chunks stand contiguously up to the first chunk behind the sink, which stays where it is."""
    engine = streamed(30, mode, policy=policy, drop_static=drop_static, **DROPPING if drop_static else {})
    manager, parts = engine.cache_manager, original_parts(engine)
    sink, *others = manager.chunks
    stored = {chunk.index for chunk in manager.chunks}
    evicted = [index for index in parts if index not in stored]
    recalled = [evicted[3], evicted[-2]]
    at, cached = others[0].start, []
    for index in reversed([sink.index, *recalled]):
        states, spread, origin, plain = parts[index]
        at -= (
            next(chunk.span for chunk in manager.state.archived if chunk.span.index == index).stop
            - next(chunk.span for chunk in manager.state.archived if chunk.span.index == index).start
        )
        then = torch.zeros_like(spread) if plain else spread + origin
        cached.insert(0, (states, then, spread + at))
    for chunk in others:
        states, spread, origin, plain = parts[chunk.index]
        cached.append((states, torch.zeros_like(spread) if plain else spread + origin, spread + chunk.start))
    expected = transformers_logits(model, processor, cached, manager.next_position)
    before = manager.fingerprint()
    found = engine.question_logits(QUESTION, recall=recalled)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
    assert (found - engine.question_logits(QUESTION)).abs().max() > 1e-2, (
        "recall must change something for this test to say anything"
    )
    assert manager.fingerprint() == before


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_what_is_archived_are_the_keys_and_values_as_they_were_computed(streamed, engine, frames, mode):
    """Those of the chunks that came before the first eviction are the same in a stream that never evicts."""
    made, whole = streamed(9, mode, max_cache_tokens=158), engine(EvictionConfig(10_000, position_mode=mode))
    assert made.cache_manager.evictor.total_evictions == 4
    for seed in range(5):
        whole.append_video_chunk(frames(2, seed))
    places = [0, *torch.tensor([chunk.tokens for chunk in whole.cache_manager.chunks]).cumsum(0).tolist()]
    for chunk in made.cache_manager.state.archived[:4]:
        first, last = places[chunk.span.index : chunk.span.index + 2]
        for layer, states in zip(whole.cache_manager.cache.layers, chunk.load(), strict=True):
            assert torch.equal(states[1], layer.values[0, :, first:last])
            assert torch.equal(states[0], layer.keys[0, :, first:last])


def test_more_than_there_is_brings_back_everything(streamed):
    made = streamed(7, recall=64, max_cache_tokens=150)
    stored = {chunk.index for chunk in made.cache_manager.chunks}
    gone = [chunk.span.index for chunk in made.cache_manager.state.archived if chunk.span.index not in stored]
    recalled = made.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=99)[1]["recalled"]
    assert [row["index"] for row in recalled] == gone and 1 < len(gone) <= 4
    assert sum(row["share"] for row in recalled) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("recall", [1, 2, "auto", [4, 2]])
def test_ask_with_recall_leaves_no_trace(streamed, mode, recall):
    engine = streamed(20, mode)
    before, held = engine.cache_manager.fingerprint(), engine.get_cache_info()["cache_bytes"]
    engine.ask(QUESTION, max_new_tokens=6, do_sample=False, recall=recall)
    assert engine.cache_manager.fingerprint() == before
    assert engine.get_cache_info()["cache_bytes"] == held


def test_a_stream_is_the_same_with_and_without_an_archive(streamed):
    with_archive, without = streamed(20), streamed(20, archive=None)
    assert torch.equal(with_archive.question_logits(QUESTION), without.question_logits(QUESTION))
    with_archive.ask(QUESTION, max_new_tokens=3, do_sample=False, recall=2)
    stored = [[tensor for layer in engine.cache_manager.cache.layers for tensor in (layer.keys, layer.values)]
              for engine in (with_archive, without)]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*stored, strict=True))


def test_recalled_and_stored_tokens_stay_within_the_budget(streamed):
    for recall_tokens, most in ((16, 1), (40, 2), (48, 3)):
        engine = streamed(20, recall=recall_tokens)
        assert engine.get_cache_info()["cache_seq_length"] <= 160 - recall_tokens
        recalled = engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=9)[1]["recalled"]
        assert len(recalled) == most
        assert [row["index"] for row in recalled] == sorted(row["index"] for row in recalled)


def test_time_of_recalled_chunks(model, processor, frames):
    """Counted from the rate, or as given: chunk i of two frames at 2 per second ends at i + 0.5 s."""
    for given in (None, [10.0 * seed for seed in range(12)]):
        engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, recall_tokens=40), archive="memory")
        for seed in range(12):
            engine.append_video_chunk(frames(2, seed), 2.0, given and given[seed])
        recalled = engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=[2, 5])[1]["recalled"]
        assert [row["time_s"] for row in recalled] == ([20.0, 50.0] if given else [2.5, 5.5])
    with pytest.raises(ValueError, match="time_s=nan"):
        engine.append_video_chunk(frames(2, 1), 2.0, float("nan"))


@pytest.mark.parametrize(
    ("recall", "message"),
    [
        (-1, "recall=-1"),
        (1.5, "recall=1.5"),
        (True, "recall=True"),
        ("all", "recall='all'"),
        ([0, 99], r"\[99\] are not in the"),
    ],
)
def test_recall_that_cannot_be_used(streamed, recall, message):
    engine = streamed(8)
    before = engine.cache_manager.fingerprint()
    with pytest.raises(ValueError, match=message):
        engine.ask(QUESTION, recall=recall)
    assert engine.cache_manager.fingerprint() == before


def test_recall_without_archive_and_without_room(streamed, engine, frames):
    with pytest.raises(ValueError, match="needs an archive"):
        streamed(3, archive=None).ask(QUESTION, recall=1)
    with pytest.raises(ValueError, match="recall_tokens of at least 16"):
        streamed(20, recall=10).ask(QUESTION, recall=1)
    assert streamed(2).ask(QUESTION, max_new_tokens=1, recall=1)[1]["recalled"] == [], "nothing was evicted yet"


def test_a_quarter_of_the_budget_is_kept_free_unless_the_configuration_says_how_much(model, processor):
    def made(archive, **config):
        return VideoStreamingInference(model, processor, "cpu", EvictionConfig(400, **config), archive=archive).eviction_config

    assert made("memory").recall_tokens == 100
    assert made("memory", recall_tokens=30).recall_tokens == 30
    assert made("memory", sink_size=100, window_size=260).recall_tokens == 40
    assert made(None).recall_tokens == 0


def test_statistics_are_those_of_keys_without_rotation(streamed, model):
    """Of a chunk of four frames, two temporal grids, against transformers' rotary embedding in the other direction."""
    engine = streamed(6, count=4, max_cache_tokens=400)
    chunk = engine.cache_manager.state.archived[4]
    rotary, states = model.model.language_model.rotary_emb, chunk.load()
    cos, sin = rotary(torch.zeros(1, 1), (chunk.spread + chunk.span.origin)[:, None])
    low, high = states[:, 0].chunk(2, -1)
    plain = states[:, 0] * cos + torch.cat([high, -low], -1) * sin
    blocks = key_blocks(chunk.spread)
    assert [block.stop - block.start for block in blocks] == [6, 6], "one block for each temporal grid of 2 x 3"
    found = KeyStatistics(rotary, True)((states,), chunk.span, chunk.spread)
    for part, each in enumerate((lambda keys: keys.mean(2), lambda keys: keys.var(2, correction=0))):
        expected = torch.stack([each(plain[:, :, block]) for block in blocks])
        torch.testing.assert_close(found[:, part], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [30, 300])
def test_the_variance_of_keys_far_from_zero_is_not_lost_to_rounding(model, offset):
    """Some numbers of real keys have a large mean that all tokens share."""
    rotary, (spread, _) = model.model.language_model.rotary_emb, chunk_positions(3, (2, 20, 30), 4, 0, 2.0)
    size, origin = 2 * len(rotary.inv_freq), 5000
    plain = torch.randn(1, 1, spread.shape[1], size, generator=torch.manual_seed(0)) + offset
    cos, sin = rotary(torch.zeros(1, 1), (spread + origin)[:, None])
    low, high = plain.chunk(2, -1)
    keys = plain * cos + torch.cat([-high, low], -1) * sin
    found = KeyStatistics(rotary, True)((torch.stack([keys, keys], 1),), SimpleNamespace(origin=origin), spread)
    expected = torch.stack([plain[:, :, block].var(2, correction=0) for block in key_blocks(spread)])
    torch.testing.assert_close(found[:, 1], expected, rtol=0, atol=5e-3)


def test_a_grid_with_one_token_left_has_statistics(streamed):
    spread, _ = chunk_positions(3, (3, 2, 3), 4, 0, 2.0)
    kept = torch.ones(spread.shape[1], dtype=torch.bool)
    kept[[*range(9, 13), 14, *range(15, 21)]] = False  # one token of the second grid, none of the third
    assert key_blocks(spread[:, kept]) == [slice(3, 9), slice(9, 10)]


def test_large_grids_are_divided_evenly():
    spread = chunk_positions(3, (2, 39, 69), 4, 0, 2.0)[0]
    lengths = [block.stop - block.start for block in key_blocks(spread)]
    assert lengths == [538, 538, 538, 538, 539] * 2
    assert key_blocks(spread)[0].start == 3
    assert key_blocks(chunk_positions(3, (2, 1, 1), 4, 0, 2.0)[0]) == [slice(0, 9)], "no grid has two tokens"


def test_the_share_of_a_chunk_is_its_attention_among_the_evicted_ones(streamed, model):
    """Against the softmax written out, from the queries of transformers' own forward hooks."""
    engine = streamed(12)
    manager, seen = engine.cache_manager, []
    engine.question_logits(QUESTION, on_queries=lambda queries, keys: seen.append(queries[0, :, -1]))
    position = manager.next_position + len(QUESTION_TURN.replace("<|im_start|>", "x").replace("<|im_end|>", "x")) - 1
    rotary = model.model.language_model.rotary_emb
    cos, sin = rotary(torch.zeros(1, 1), torch.full((3, 1, 1), position))
    queries = torch.stack(seen)
    low, high = queries.chunk(2, -1)
    queries = queries * cos[0] + torch.cat([high, -low], -1) * sin[0]
    stored = {chunk.index for chunk in manager.chunks}
    evicted = [chunk for chunk in manager.state.archived if chunk.span.index not in stored]
    statistics = KeyStatistics(rotary, True)
    mean, variance = torch.stack([statistics((c.load(),), c.span, c.spread)[0] for c in evicted], 1)
    asked = queries.unflatten(1, (mean.shape[2], -1)) * mean.shape[-1] ** -0.5
    logits = torch.einsum("clkd,lkgd->lkgc", mean, asked) + torch.einsum("clkd,lkgd->lkgc", variance, asked**2) / 2
    expected = logits.softmax(-1).mean((0, 1, 2))
    recalled = engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=[c.span.index for c in evicted[:2]])[1][
        "recalled"
    ]
    assert [row["share"] for row in recalled] == pytest.approx(expected[:2].tolist(), rel=1e-3)
    best = engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=1)[1]["recalled"]
    assert best[0]["index"] == evicted[int(expected.argmax())].span.index


def test_eight_bit_chunks_come_back_as_they_were_stored(streamed):
    engine = streamed(12, kv_dtype=torch.float8_e4m3fn)
    chunk = engine.cache_manager.state.archived[2]
    assert chunk.load().dtype == torch.float8_e4m3fn
    before = engine.cache_manager.fingerprint()
    assert engine.ask(QUESTION, max_new_tokens=2, do_sample=False, recall=2)[1]["recalled"]
    assert engine.cache_manager.fingerprint() == before
