"""Every family: streaming is transformers' own forward, at its positions, and what is evicted, recalled or dropped is exact."""

import copy

import pytest
import torch
from helpers import QUESTION, QUESTION_TURN, fingerprint, next_logits
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.encoding import grid_times
from kvlib.evictor import POSITION_MODES
from kvlib.families import FAMILIES, family_of
from kvlib.lab.report import paths
from kvlib.lab.video.calibration import forecast
from kvlib.ops.backbone import backbone_of
from kvlib.ops.pixels import patchify


class Turns:
    """The same chunks as text and patches for transformers' own forward.

    Chunks of more temporal grids than rows or columns are left out of the comparison: after them transformers 5.17 goes on from
    the larger of rows and columns, also where the last temporal position is higher, so that positions come twice (Qwen2-VL
    and Qwen2.5-VL).
    """

    def __init__(self, model, processor):
        self.model, self.processor, self.family = model, processor, family_of(model.config)
        self.text, self.patches, self.grids = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", [], []

    def add(self, frames, last: float) -> None:
        patches, grid = patchify(frames, self.processor.image_processor, "cpu", self.family.resize)
        pads, stamps = "<|video_pad|>" * (grid[1] * grid[2] // 4), [""]
        if self.family.stamped:
            stamps = [f"<{time:.1f} seconds>" for time in grid_times(len(frames), 2.0, last, grid[0])]
        pads *= grid[0] // len(stamps)
        blocks = "".join(f"{stamp}<|vision_start|>{pads}<|vision_end|>" for stamp in stamps)
        self.text += f"<|im_start|>user\n{blocks}<|im_end|>\n"
        self.patches.append(patches)
        self.grids.append(grid)

    def given(self, text: str = "") -> dict:
        ids = self.processor.tokenizer(self.text + text, return_tensors="pt")["input_ids"]
        given = dict(input_ids=ids, mm_token_type_ids=(ids == self.model.config.video_token_id) * 2)
        given |= dict(video_grid_thw=torch.tensor(self.grids))
        return given | (dict(second_per_grid_ts=torch.ones(len(self.grids))) if "tokens_per_second" in self.vision else {})

    @property
    def vision(self) -> dict:
        return self.model.config.vision_config.to_dict()

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        out = self.model(**self.given(QUESTION_TURN), pixel_values_videos=torch.cat(self.patches))
        self.model.model.rope_deltas = None
        return out.logits[0, -1]


def room_for(model, processor, chunk) -> int:
    """A budget in tokens of four chunks, of which a quarter, what recall may take, is more than one."""
    empty = VideoStreamingInference(model, processor, "cpu")
    return empty.count_tokens(chunk, first=True) + 3 * empty.count_tokens(chunk)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@torch.no_grad()
def test_the_tower_is_that_of_transformers(model, processor, frames, count):
    family = family_of(model.config)
    patches, grid = patchify(frames(count, 3, 84, 140), processor.image_processor, "cpu", family.resize)
    theirs = model.model.visual(patches, grid_thw=torch.tensor([grid]))
    expected = [theirs.pooler_output, *(getattr(theirs, "deepstack_features", None) or [])]
    found = backbone_of(model, family.tower).vision(patches, grid)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert len(found) == (3 if family.stamped else 1)


@pytest.mark.parametrize("sizes", [[2], [2, 5, 4], [1, 3, 2, 4]])
def test_streaming_equals_one_forward_at_the_same_positions(engine, model, processor, frames, sizes):
    streamed, turns, seen = engine(), Turns(model, processor), 0
    for seed, count in enumerate(sizes):
        chunk = frames(count, seed, 84, 140)
        streamed.append_video_chunk(chunk)
        seen += count
        turns.add(chunk, (seen - 1) / 2)
    torch.testing.assert_close(next_logits(streamed), turns.logits(), rtol=1e-4, atol=1e-4)
    positions, _ = model.model.get_rope_index(**turns.given())
    assert torch.equal(streamed.cache_manager.positions, positions[:, 0])


def test_a_chunk_says_its_own_time(engine, model, processor, frames):
    """The time that is given reaches the model where the family writes it, and changes nothing where it does not."""
    told, counted = engine(), engine()
    for seed in range(3):
        told.append_video_chunk(frames(2, seed), time_s=100.0 + seed)
        counted.append_video_chunk(frames(2, seed))
    changed = not torch.equal(next_logits(told), next_logits(counted))
    assert changed == family_of(model.config).stamped
    turns = Turns(model, processor)
    for seed in range(3):
        turns.add(frames(2, seed), 100.0 + seed)
    torch.testing.assert_close(next_logits(told), turns.logits(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [mode for mode in POSITION_MODES if mode != "keep"])
@pytest.mark.parametrize("drop", [0.0, 0.03])
def test_contiguous_modes_agree_and_keep_only_what_they_may(model, processor, partly_static, mode, drop):
    budget = room_for(model, processor, partly_static(4, 0))
    config = EvictionConfig(budget, position_mode=mode)
    streamed = VideoStreamingInference(model, processor, "cpu", config, drop_static=drop)
    reference = VideoStreamingInference(model, processor, "cpu", EvictionConfig(budget), drop_static=drop)
    for seed in range(10):
        for each in (streamed, reference):
            info = each.append_video_chunk(partly_static(4, seed))
            assert info["cache_seq_length"] <= budget
    assert info["eviction_stats"]["total_evictions"] > 0 and (info["tokens_dropped"] > 0) == (drop > 0)
    torch.testing.assert_close(next_logits(streamed), next_logits(reference), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_a_question_and_recall_leave_no_trace(model, processor, frames, mode):
    config = EvictionConfig(room_for(model, processor, frames(4, 0)), position_mode=mode)
    streamed = VideoStreamingInference(model, processor, "cpu", config, archive="memory")
    for seed in range(10):
        streamed.append_video_chunk(frames(4, seed))
    before, logits = fingerprint(streamed), next_logits(streamed)
    answer, metrics = streamed.ask(QUESTION, max_new_tokens=6, do_sample=False, recall=1)
    assert len(metrics["recalled"]) == 1 and fingerprint(streamed) == before
    assert torch.equal(next_logits(streamed), logits)
    assert not torch.equal(streamed.question_logits(QUESTION, recall=1)[0], logits)
    assert streamed.ask(QUESTION, max_new_tokens=6, do_sample=False, recall=1)[0] == answer


def test_counted_tokens_are_those_that_are_stored(engine, frames):
    streamed, before = engine(), 0
    for seed, count in enumerate((2, 3, 8)):
        chunk = frames(count, seed, 84, 140)
        expected = streamed.count_tokens(chunk, first=seed == 0)
        stored = streamed.append_video_chunk(chunk)["cache_seq_length"]
        assert stored - before == expected
        before = stored


def test_all_known_models_are_tried():
    assert list(FAMILIES) == ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


@pytest.mark.parametrize("policy", ["sink_window", "uniform", "importance"])
@pytest.mark.parametrize("mode", POSITION_MODES)
def test_cached_keys_are_the_raw_keys_rotated_to_where_the_record_says_they_stand(model, processor, frames, policy, mode):
    """The oracle "prune, then RoPE": keys of the survivors as the projections gave them, rotated afresh by transformers."""
    config = EvictionConfig(room_for(model, processor, frames(2, 0)), policy=policy, position_mode=mode)
    streamed, layers = VideoStreamingInference(model, processor, "cpu", config), model.model.language_model.layers
    raw = [[] for _ in layers]
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
        for layer, kept in zip(layers, raw, strict=True)
    ]
    try:
        for seed in range(12):
            streamed.append_video_chunk(frames(2, seed))
    finally:
        for hook in hooks:
            hook.remove()
    manager = streamed.cache_manager
    assert manager.evictor.total_evictions > 4
    cos, sin = model.model.language_model.rotary_emb(torch.zeros(1), manager.positions[:, None])
    for layer, stored, by_chunk in zip(layers, manager.cache.layers, raw, strict=True):
        keys = torch.cat([by_chunk[chunk.index] for chunk in manager.chunks], dim=1).unflatten(-1, (2, -1))
        keys = layer.self_attn.k_norm(keys) if hasattr(layer.self_attn, "k_norm") else keys
        keys = keys.transpose(1, 2)
        expected = keys if mode == "unrotated" else apply_rotary_pos_emb(keys, keys, cos, sin)[1]
        torch.testing.assert_close(stored.keys, expected, rtol=0, atol=5e-5)


@torch.no_grad()
def test_the_benchmarks_plain_loop_is_the_same_computation(model, processor, frames, monkeypatch):
    monkeypatch.syspath_prepend(str(paths.ROOT / "benchmarks"))
    import internals
    from methods import PlainLoop

    loop, streamed = PlainLoop(model, processor, torch.device("cpu")), VideoStreamingInference(model, processor, "cpu")
    chunks = [frames(4, seed, 84, 140) for seed in range(2)]
    loop.append(chunks[0], first=True)
    streamed.append_video_chunk(chunks[0], 2.0)
    ids = internals.question_tokens(streamed, QUESTION)
    at = torch.arange(ids.shape[1]).expand(3, 1, -1) + loop.next_position
    plain = model(input_ids=ids, position_ids=at, past_key_values=loop.cache, use_cache=True).logits[0, -1]
    torch.testing.assert_close(next_logits(streamed), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("drop", [0.0, 0.03])
def test_on_a_gpu_with_captured_graphs_the_results_are_those_of_a_cpu(model, processor, partly_static, drop):
    """Chunks of equal size, so that from the second on the tower and the layers are replayed; answers decode by a graph too."""
    config = EvictionConfig(room_for(model, processor, partly_static(4, 0)))
    exact = VideoStreamingInference(model, processor, "cpu", config, drop_static=drop)
    moved = copy.deepcopy(model).to("cuda", torch.bfloat16)
    fast = VideoStreamingInference(moved, processor, "cuda", config, drop_static=drop)
    for seed in range(8):
        exact.append_video_chunk(partly_static(4, seed))
        fast.append_video_chunk(partly_static(4, seed))
    expected, found = next_logits(exact), next_logits(fast).float().cpu()
    assert (found - expected).norm() / expected.norm() < 0.05
    assert fast.get_cache_info()["graph_bytes"] > 0
    before = next_logits(fast)
    fast.ask(QUESTION, max_new_tokens=6, do_sample=False)
    assert torch.equal(next_logits(fast), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_chunks_that_are_undone_leave_no_trace(model, processor, partly_static):
    """Graphs read the buffers that they were captured with, and an undone chunk is written to other buffers."""
    config = EvictionConfig(room_for(model, processor, partly_static(4, 0)))
    moved = copy.deepcopy(model).to("cuda", torch.bfloat16)
    streamed, undisturbed = (VideoStreamingInference(moved, processor, "cuda", config) for _ in range(2))
    for seed in range(8):
        if seed > 3:
            before, logits = streamed.cache_manager.fingerprint(), next_logits(streamed)
            with streamed.cache_manager.undone():
                for other in (20, 21):
                    streamed.append_video_chunk(partly_static(4, seed + other))
                streamed.ask(QUESTION, max_new_tokens=6, do_sample=False)
                assert not torch.equal(next_logits(streamed), logits)
            assert streamed.cache_manager.fingerprint() == before
            assert torch.equal(next_logits(streamed), logits)
        for engine in (streamed, undisturbed):
            engine.append_video_chunk(partly_static(4, seed))
    expected, found = next_logits(undisturbed), next_logits(streamed)
    assert (found - expected).norm() / expected.norm() < 0.01
    answers = [engine.ask(QUESTION, max_new_tokens=6, do_sample=False)[0] for engine in (streamed, undisturbed)]
    assert answers[0] == answers[1]


def test_its_time_and_memory_are_forecast(model, processor):
    size, device = (4, 56, 84), torch.device("cpu")
    made = forecast(model.config, processor, size, 2.0, 1000, device)
    assert made.tokens < made.first_tokens and made.seconds > 0
    head = made.token_bytes / (4 * 2 * 2 * 4)  # layers, keys and values, KV heads, bytes of a number
    assert head == 16
