"""The runs behind the notebooks, on a tiny random model and real H.264 files: tables that say what happened."""

import pandas as pd
import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import experiments

CLIP = paths.DATA / "clips" / "short.mp4"  # 12 s: 12 chunks of 2 frames at 2 per second
BYTES = 3 * 2 * 2 * 16 * 4  # per token of the tiny model: layers, keys and values, KV heads, head dim, fp32


def test_sinks_are_real_cache_lengths_at_full_size(model, processor):
    limits = dict(processor.image_processor.size)
    assert limits["longest_edge"] == 50 * 28 * 28, (
        "the heights below must need more than the limit for this test to say anything"
    )
    increments, sinks = experiments.detect_sinks(model, processor, CLIP, [2, 4], [280, 336], chunks=3, budget=5000)
    assert dict(processor.image_processor.size) == limits
    assert len(sinks) == 4
    assert len(increments) == 12
    first = increments[increments["chunk"] == 0].set_index("configuration")["new_tokens"]
    assert (sinks.set_index("configuration")["sink_tokens"] == first).all()
    system = len("system\nYou are a helpful assistant.") + 3  # the tokenizer has a token per byte, and three special ones here
    for row in sinks.itertuples():
        vision = row.chunk_frames // 2 * (row.height // 28) * (2 * row.height // 28)  # the clip is twice as wide as high
        assert row.mean_real == row.mean_recorded == vision + 10  # "user\n" is five bytes
        assert row.sink_tokens == vision + 10 + system > 128


def test_a_stream_without_eviction_ends_at_the_limit_and_with_it_runs_through(model, processor):
    def run(config, limit):
        engine = VideoStreamingInference(model, processor, "cpu", config)
        return experiments.stream_video(engine, CLIP, 2, 2.0, "run", limit)

    ended = run(None, 700 * BYTES)
    assert ended["event"].iloc[-1] == "out of memory"
    assert len(ended) < 12
    assert (ended["cache_bytes"].iloc[:-1] <= 700 * BYTES).all()
    bounded = run(EvictionConfig(160), 700 * BYTES)
    assert len(bounded) == 12
    assert bounded["cache_tokens"].max() <= 160
    assert (bounded["event"] == "eviction").sum() > 0
    assert (bounded["cache_bytes"] <= 700 * BYTES).all()


def test_a_stream_can_end_once_it_has_made_so_many_tokens(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160))
    rows = experiments.stream_video(engine, CLIP, 2, 2.0, "run", tokens=250)
    assert engine.cache_manager.seen > 250
    assert len(rows) == len(engine.cache_manager.chunks) + engine.cache_manager.evictor.total_evictions < 12


@pytest.mark.parametrize(
    ("limit_tokens", "best", "verdicts"),
    [
        (2000, 400, ["room left", "room left", "room left"]),  # room at every budget: up to the highest
        (900, 300, ["keep"]),  # (300 * 1.1 + 512) / 900 lies between 21/24 and 23/24
        (800, 200, ["out of memory", "keep"]),
        (600, None, ["out of memory", "out of memory"]),
    ],
)
def test_tuning_goes_up_while_there_is_room_and_down_when_memory_ends(model, processor, limit_tokens, best, verdicts):
    tuned, found = experiments.tune_budget(
        lambda budget: VideoStreamingInference(model, processor, "cpu", EvictionConfig(budget)),
        CLIP, 2, 2.0, (200, 300, 400), limit_tokens * BYTES,
    )  # fmt: skip
    assert tuned["verdict"].tolist() == verdicts
    assert found == best


def test_a_budget_found_is_the_default_of_its_model_and_device(tmp_path):
    cpu, folder = torch.device("cpu"), str(tmp_path)
    assert experiments.choose_budget(0, "a", cpu, folder)[0] == 130_000
    assert experiments.choose_budget(0, str(paths.READER), cpu, folder)[0] == experiments.READER_BUDGETS[1]
    experiments.save_budget(700, "a", cpu, folder)
    experiments.save_budget(800, "b", cpu, folder)
    experiments.save_budget(900, "a", cpu, folder)
    assert experiments.choose_budget(0, "a", cpu, folder)[0] == 900
    assert "02_oom_free" in experiments.choose_budget(0, "a", cpu, folder)[1]
    assert experiments.choose_budget(0, "b", cpu, folder)[0] == 800
    assert experiments.choose_budget(0, "c", cpu, folder)[0] == 130_000
    assert experiments.choose_budget(50, "a", cpu, folder) == (50, "given")


def test_periodic_questions_are_asked_on_time_and_leave_no_trace(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160))
    asks = experiments.ask_periodically(engine, CLIP, 2, 2.0, 3, "What?", 4)
    assert asks["chunk"].tolist() == [2, 5, 8, 11]
    assert asks["time_s"].tolist() == [2.5, 5.5, 8.5, 11.5]
    assert asks["unchanged"].all()
    assert (asks["ttft"] > 0).all()


def test_a_trace_would_be_seen(model, processor, monkeypatch):
    engine = VideoStreamingInference(model, processor, "cpu", None)
    ask = engine.ask

    def careless(*arguments, **options):
        engine.cache_manager.cache.layers[1].values[0, 0, 0, 0] += 1
        return ask(*arguments, **options)

    monkeypatch.setattr(engine, "ask", careless)
    assert not experiments.ask_periodically(engine, CLIP, 2, 2.0, 6, "What?", 2)["unchanged"].any()


def test_both_modes_watch_the_same_streams(model, processor):
    answers = experiments.accuracy_over_length(model, processor, [2, 4], streams=1, budget=200, seed=0)
    assert len(answers) == 8
    assert not answers["truth"].eq("No text visible").any()
    assert answers.groupby(["chunks", "question"])["truth"].nunique().eq(1).all()
    assert answers["first_eviction"].eq(3).all()  # 98 + 60 tokens fit into 200, 60 more do not


def test_sharing_the_vision_tower_and_the_cores_changes_no_answer(model, processor):
    together = experiments.accuracy_over_length(model, processor, [4], streams=3, budget=200, seed=0)
    for mode in ("keep", "remap"):
        alone = experiments.accuracy_over_length(model, processor, [4], streams=3, budget=200, seed=0, modes=(mode,))
        rows = together[together["position_mode"] == mode].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, rows)


def test_intervals_are_wilsons():
    answers = pd.DataFrame({"question": "title", "position_mode": "keep", "chunks": 8, "correct": [True] * 9 + [False]})
    row = experiments.count_correct(answers, ["question", "position_mode", "chunks"]).iloc[0]
    assert (row["correct"], row["n"], row["accuracy"]) == (9, 10, 0.9)
    assert (row["low"], row["high"]) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


def test_the_cpu_limit_is_only_a_number():
    assert experiments.cap_memory(1.5, torch.device("cpu")) == 1.5 * 2**20
    assert experiments.cap_memory(0, torch.device("cpu")) == experiments.CPU_CACHE_LIMIT


def test_threads_are_restored_after_a_failing_stream(model):
    threads = torch.get_num_threads()

    def fail(number):
        raise RuntimeError(f"stream {number}")

    with pytest.raises(RuntimeError, match="stream 0"):
        experiments.each_stream(fail, 3, model)
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_capped_on_a_device_named_without_its_number():
    assert experiments.cap_memory(0, torch.device("cuda")) == experiments.CARD_LIMIT
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(experiments.CARD_LIMIT + 2**30, dtype=torch.uint8, device="cuda")
