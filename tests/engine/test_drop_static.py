"""`drop_static`: of the later grids of a chunk only what changed is kept, at its true position."""

import numpy as np
import pytest
import torch
from helpers import QUESTION, QUESTION_TURN, fingerprint, placement, processed

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.encoding import place_in_turn
from kvlib.evictor import POSITION_MODES
from kvlib.policies import Importance, Uniform
from kvlib.policies.scorers import SCORERS

DROP = 0.03
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.fixture
def dropping(model, processor):
    """Makes an engine: `dropping(config=None, drop_static=DROP, **options)`."""

    def make(config=None, drop_static=DROP, **options):
        return VideoStreamingInference(model, processor, "cpu", config, drop_static=drop_static, **options)

    return make


def changed(frames: torch.Tensor, threshold: float) -> np.ndarray:
    """bool [grids, 2, 3], written out for frames [T, 56, 84, 3] that need no resizing: which merged patches are kept."""
    levels = frames.numpy().astype(np.float64) / 255
    if len(levels) % 2:
        levels = np.concatenate([levels, levels[-1:]])
    kept, last = np.zeros((len(levels) // 2, 2, 3), bool), {}
    for grid in range(len(kept)):
        for row in range(2):
            for column in range(3):
                pixels = levels[2 * grid : 2 * grid + 2, 28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
                if grid == 0 or np.abs(pixels - last[row, column]).mean() >= threshold:
                    kept[grid, row, column], last[row, column] = True, pixels
    return kept


@pytest.mark.parametrize("count", [2, 3, 8, 9, 32])
@pytest.mark.parametrize("seed", range(4))
def test_kept_is_what_changed_since_it_was_last_kept(dropping, partly_static, count, seed):
    frames = partly_static(count, seed)
    expected = changed(frames, DROP)
    made = dropping()
    chunk = made.encode(frames)
    assert chunk.kept.numpy().tolist() == expected.tolist()
    assert chunk.dropped == (~expected).sum() and (count < 4 or chunk.dropped > 0)
    placed = place_in_turn(made.model, made.processor.tokenizer, chunk, 0.0)
    assert placed.embeddings.shape[:2] == (1, placed.texts[0] + expected.sum() + placed.texts[1])


@pytest.mark.parametrize(("steps", "kept"), [(1, [1, 0, 0, 1, 0, 0, 1, 0]), (4, [1] * 8), (0, [1] + [0] * 7)])
def test_a_slow_change_is_kept_when_it_has_added_up(dropping, steps, kept):
    """Every grid is brighter than the last by `steps` of 255 levels; the threshold is three levels."""
    grids = [torch.full((2, 56, 84, 3), 100 + steps * number, dtype=torch.uint8) for number in range(8)]
    chunk = dropping(drop_static=2.99 / 255).encode(torch.cat(grids))
    assert chunk.kept.flatten(1).all(1).int().tolist() == kept == chunk.kept.flatten(1).any(1).int().tolist()


def test_a_change_in_one_frame_of_a_pair_counts_for_half(dropping):
    frames = torch.full((4, 56, 84, 3), 100, dtype=torch.uint8)
    frames[3, :28, :28] = 120  # 10 levels on average over the two frames
    for threshold, kept in ((9.9 / 255, 1), (10.1 / 255, 0)):
        assert dropping(drop_static=threshold).encode(frames).kept[1].sum() == kept


def test_off_is_bit_identical(engine, dropping, partly_static, frames):
    """Also where the threshold finds nothing to drop."""
    for made in (partly_static, lambda count, seed: frames(count, seed)):
        plain, off = engine(EvictionConfig(300)), dropping(EvictionConfig(300), drop_static=0)
        tiny = dropping(EvictionConfig(300), drop_static=1e-9)
        for seed in range(10):
            for target in (plain, off, tiny):
                target.append_video_chunk(made(6, seed))
        assert plain.cache_manager.fingerprint() == off.cache_manager.fingerprint()
        assert plain.get_cache_info()["tokens_dropped"] == off.get_cache_info()["tokens_dropped"] == 0
    assert fingerprint(plain) == fingerprint(tiny), "random frames change everywhere"


@pytest.mark.parametrize("sizes", [[8], [8, 6, 4], [2, 9, 16]])
def test_logits_are_those_of_one_forward_without_the_dropped_tokens(dropping, model, processor, partly_static, sizes):
    """Transformers' own tower and language model over all turns at once, with the dropped tokens taken out of its input."""
    chunks = [partly_static(count, seed) for seed, count in enumerate(sizes)]
    streamed = dropping()
    for chunk in chunks:
        streamed.append_video_chunk(chunk)
    patches, grids, stays, text = [], [], [], SYSTEM
    for chunk in chunks:
        part, grid = cut(chunk, processor.image_processor)
        patches.append(part)
        grids.append(grid)
        stays.append(torch.from_numpy(changed(chunk, DROP)).flatten())
        text += f"<|im_start|>user\n<|vision_start|>{'<|video_pad|>' * len(stays[-1])}<|vision_end|><|im_end|>\n"
    ids = processor.tokenizer(text + QUESTION_TURN, return_tensors="pt")["input_ids"]
    pads = ids == model.config.video_token_id
    with torch.no_grad():
        features = model.model.visual(torch.cat(patches), grid_thw=torch.tensor(grids)).pooler_output
        features = torch.cat(list(features)) if isinstance(features, list | tuple) else features
        positions = positions_of(pads[0].tolist(), [grid[0] for grid in grids])
        embeddings = model.get_input_embeddings()(ids)
        embeddings[pads] = features
        keep = torch.ones(ids.shape[1], dtype=torch.bool)
        keep[pads[0]] = torch.cat(stays)
        out = model.model.language_model(inputs_embeds=embeddings[:, keep], position_ids=positions[:, None, keep])
        expected = model.lm_head(out.last_hidden_state[:, -1])
    assert not keep.all()
    torch.testing.assert_close(streamed.question_logits(QUESTION), expected, rtol=1e-3, atol=1e-3)


def positions_of(pads: list[bool], grids: list[int]) -> torch.Tensor:
    """M-RoPE positions [3, tokens] written out: text, and blocks of `grids` x 2 x 3 merged patches, two positions a grid."""
    positions, following, index = [], 0, 0
    while index < len(pads):
        if pads[index]:
            t = grids.pop(0)
            block = [(2 * grid, row, column) for grid in range(t) for row in range(2) for column in range(3)]
        else:
            block = [(0, 0, 0)]
        positions += [tuple(following + place for place in token) for token in block]
        following, index = max(map(max, positions)) + 1, index + len(block)
    return torch.tensor(positions).T


def pairs(frames: torch.Tensor) -> torch.Tensor:
    """The frames, an odd one repeated."""
    return torch.cat([frames, frames[-1:]]) if len(frames) % 2 else frames


def cut(frames: torch.Tensor, settings) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Patches of frames [T, 56, 84, 3], two a temporal patch, in the order of merged patches, and their grid."""
    mean, std = (torch.tensor(x) for x in (settings.image_mean, settings.image_std))
    pixels = ((pairs(frames) / 255 - mean) / std).permute(0, 3, 1, 2)
    rows = [
        pixels[t : t + 2, :, y : y + 14, x : x + 14].transpose(0, 1).flatten()
        for t in range(0, len(pixels), 2)
        for row in (0, 28)
        for column in (0, 28, 56)
        for y in (row, row + 14)
        for x in (column, column + 14)
    ]
    return torch.stack(rows), (len(pixels) // 2, 4, 6)


@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("policy", ["sink_window", Uniform(), *map(Importance, SCORERS)], ids=str)
def test_budget_counts_and_answers_hold_with_every_policy_and_mode(dropping, partly_static, mode, policy):
    streamed, stored, given = dropping(EvictionConfig(200, policy=policy, position_mode=mode)), 0, 0
    for seed in range(12):
        frames = partly_static(8, seed)
        info = streamed.append_video_chunk(frames)
        given += streamed.count_tokens(frames, first=seed == 0)
        stored = info["cache_seq_length"] + info["eviction_stats"]["total_tokens_evicted"]
        assert info["cache_seq_length"] <= 200
        assert stored + info["tokens_dropped"] == info["tokens_seen"] == given
    assert sum(chunk.dropped for chunk in streamed.cache_manager.chunks) > 0 and info["eviction_stats"]["total_evictions"] > 0
    before, where = fingerprint(streamed), placement(streamed)
    streamed.ask(QUESTION, max_new_tokens=3, do_sample=False)
    assert (fingerprint(streamed), placement(streamed)) == (before, where)


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_redundancy_compares_what_both_chunks_have_kept(dropping, partly_static, mode):
    config, raw = EvictionConfig(600, policy=Importance("temporal_redundancy"), position_mode=mode), []
    streamed = dropping(config)
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out: raw.append(out[0].unflatten(-1, (2, 16))))
        for layer in streamed.model.model.language_model.layers
    ]
    chunks = [partly_static(8, seed) for seed in range(3)]
    encoded = [streamed.encode(chunks[0])]
    streamed.append_encoded(encoded[0])
    for chunk in chunks[1:]:
        encoded.append(streamed.encode(chunk))
        streamed.append_encoded(encoded[-1])
    for hook in hooks:
        hook.remove()
    texts = [place_in_turn(streamed.model, streamed.processor.tokenizer, part, 0.0).texts for part in encoded]
    for number in (1, 2):
        (old_before, _), (before, after) = texts[number - 1], texts[number]
        old, new = (
            [None] * part_before + (1 + part.kept.flatten().nonzero()[:, 0]).tolist() + [None] * after
            for part, part_before in zip(encoded[number - 1 : number + 1], (old_before, before), strict=True)
        )
        both = [(old.index(place), spot) for spot, place in enumerate(new) if place is not None and place in old]
        # text in front of the frames, as much as both have, and behind them stands at equal positions too
        both += [(old_before - i, before - i) for i in range(1, min(old_before, before) + 1)]
        both += [(len(old) - i, len(new) - i) for i in range(1, after + 1)]
        assert len(both) < len(new)
        cosines = [
            torch.nn.functional.cosine_similarity(
                raw[3 * number - 3 + layer][[a for a, _ in both]], raw[3 * number + layer][[b for _, b in both]], -1
            ).mean()
            for layer in range(3)
        ]
        assert streamed.cache_manager.chunks[number].score == pytest.approx(-torch.stack(cosines).mean().item(), abs=1e-5)


def test_engines_share_a_chunk_with_dropped_tokens(dropping, partly_static):
    first, second = dropping(EvictionConfig(200)), dropping(EvictionConfig(200))
    for seed in range(6):
        first.append_encoded(second.encode(partly_static(8, seed)))
        second.append_video_chunk(partly_static(8, seed))
    assert fingerprint(first) == fingerprint(second)


def test_a_restored_snapshot_counts_as_before(dropping, partly_static):
    streamed = processed(lambda config: dropping(config), partly_static, None, 2)
    snapshot, before = streamed.cache_manager.take_snapshot(), fingerprint(streamed)
    streamed.append_video_chunk(partly_static(8, 5))
    streamed.cache_manager.restore_snapshot(snapshot)
    assert fingerprint(streamed) == before


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan"), float("inf"), True, "0.03", None])
def test_a_threshold_that_cannot_be_used(dropping, value):
    with pytest.raises(ValueError, match="drop_static=.*below 1"):
        dropping(drop_static=value)
