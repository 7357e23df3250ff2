"""Runs of one engine over real H.264 files, on a tiny random model: what their tables say."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference, load_processor, prompts
from kvlib.checkpoint import load_config
from kvlib.lab.report import paths
from kvlib.lab.study import runs
from kvlib.lab.study.clips import write_video
from kvlib.lab.video.calibration import chunk_tokens, first_frames
from kvlib.lab.video.source import VideoSource

CLIP = paths.DATA / "clips" / "short.mp4"  # 12 s: 12 chunks of 2 frames at 2 per second
BYTES = 3 * 2 * 2 * 16 * 4  # per token of the tiny model: layers, keys and values, KV heads, head dim, fp32


def test_sinks_are_real_cache_lengths_at_full_size(model, processor):
    limits = dict(processor.image_processor.size)
    assert limits["longest_edge"] == 50 * 28 * 28, (
        "the heights below must need more than the limit for this test to say anything"
    )
    increments, sinks = runs.detect_sinks(
        model, processor, CLIP, [2, 4], [280, 224], chunks=3, budget=5000, position_mode="remap"
    )
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
        assert row.tokens_per_s == (3 * (vision + 10) + system) / (3 * row.chunk_frames / 2), "2 frames a second"


def test_the_video_s_own_height_comes_first_and_none_is_larger_or_done_twice(model, processor):
    _, sinks = runs.detect_sinks(model, processor, CLIP, [2], [0, 720, 280, 224], 1, 5000, "remap")
    assert sinks["height"].tolist() == [280, 224], "the clip has 280 rows"
    assert sinks["configuration"].tolist() == ["2 frames, 280 px", "2 frames, 224 px"]


@pytest.mark.parametrize(("system_turn", "sink"), [(11, 5400), (49, 5438)])
def test_the_sink_at_1080p_is_that_of_the_original_machine(tmp_path, monkeypatch, system_turn, sink):
    """Two grids of 39 x 69 merged patches, 7 tokens of the user turn, and the system turn: 11 tokens with Qwen's default
    prompt, 49 on the original machine."""
    words = "You are a helpful assistant." + "." * (system_turn - 11)
    monkeypatch.setattr(prompts, "SYSTEM_PROMPT", words)
    write_video(tmp_path / "hd.mp4", [np.zeros((1080, 1920, 3), np.uint8)] * 4, fps=2.0)
    published, config = load_processor(paths.READER), load_config(paths.READER)
    published.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    size, _ = first_frames(VideoSource(tmp_path / "hd.mp4", 4, 2.0))
    assert size == (4, 1080, 1920)
    _, later, first = chunk_tokens(config, published, size)
    assert (later, first) == (2 * 39 * 69 + 7, sink) == (5389, sink)
    unlimited = runs.without_pixel_limit(published)
    assert chunk_tokens(config, unlimited, size) == chunk_tokens(config, published, size), (
        "the published pixel limit does not interfere"
    )


def test_a_video_of_one_frame_is_one_short_chunk(model, processor, tmp_path):
    write_video(tmp_path / "one.mp4", [np.zeros((280, 560, 3), np.uint8)], fps=2.0)
    increments, sinks = runs.detect_sinks(model, processor, tmp_path / "one.mp4", [4], [0], 5, 5000, "remap")
    assert len(increments) == 1 and sinks["mean_real"].tolist() == sinks["mean_recorded"].tolist() == [0.0]
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, position_mode="remap"))
    rows = runs.stream_video(engine, VideoSource(tmp_path / "one.mp4", 4), "run")
    assert len(rows) == 1 and rows["cache_tokens"].tolist() == [98]


def test_the_small_files_of_a_checkpoint_are_read_before_the_weights(tmp_path, monkeypatch):
    folder = shutil.copytree(paths.READER, tmp_path / "reader")
    (folder / "preprocessor_config.json").unlink()
    monkeypatch.setattr(runs.StreamQwenModel, "from_pretrained", None)  # must not be called
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json"):
        runs.load(str(folder), torch.device("cpu"))


def test_a_stream_without_eviction_ends_at_the_limit_and_with_it_runs_through(model, processor):
    def run(config, limit):
        engine = VideoStreamingInference(model, processor, "cpu", config)
        return runs.stream_video(engine, VideoSource(CLIP), "run", limit)

    ended = run(None, 700 * BYTES)
    assert ended["event"].iloc[-1] == "out of memory"
    assert len(ended) < 12
    assert (ended["cache_bytes"].iloc[:-1] <= 700 * BYTES).all()
    bounded = run(EvictionConfig(160, position_mode="remap"), 700 * BYTES)
    assert len(bounded) == 12
    assert bounded["cache_tokens"].max() <= 160
    assert (bounded["event"] == "eviction").sum() > 0
    assert (bounded["cache_bytes"] <= 700 * BYTES).all()


def test_a_stream_can_end_once_it_has_made_so_many_tokens(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, position_mode="remap"))
    rows = runs.stream_video(engine, VideoSource(CLIP), "run", tokens=250)
    assert engine.cache_manager.seen == 278, "98 tokens of the first chunk, then 60 for each: 218 are not enough, 278 are"
    assert len(rows) == 4


def test_tokens_that_are_dropped_do_not_count_as_made(model, processor):
    """Four chunks of 6 frames, of which the second and third grids stand still but for the change of the text."""
    rows = {}
    for drop in (0.0, 0.03):
        engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(400), drop_static=drop)
        rows[drop] = runs.stream_video(engine, VideoSource(CLIP, 6), "run", tokens=300)
    stored = {drop: (table["tokens_seen"] - table["tokens_dropped"]).tolist() for drop, table in rows.items()}
    assert stored[0.0] == [198, 358] and rows[0.0]["tokens_dropped"].tolist() == [0, 0]
    assert len(stored[0.03]) > 2 and stored[0.03][-2] <= 300, "it goes on until so many are stored"


def test_a_run_says_what_it_has_streamed_and_how_long_that_took(model, processor, monkeypatch):
    ticks = iter(range(0, 10_000, 3))
    monkeypatch.setattr(runs.time, "perf_counter", lambda: next(ticks))  # every chunk takes three seconds
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(300), drop_static=0.03)
    rows = runs.stream_video(engine, VideoSource(CLIP, 6), "run")
    info = engine.get_cache_info()
    assert rows["video_s"].tolist() == [3, 6, 9, 12] and rows["computing_s"].tolist() == [3, 6, 9, 12]
    assert info["tokens_dropped"] > 0 and info["tokens_seen"] == 38 + 4 * 160
    kept = info["tokens_seen"] - info["tokens_dropped"]
    assert runs.token_measures(rows) == [
        ("tokens of the video", 678, "tokens"),
        ("share of these tokens dropped", info["tokens_dropped"] / 678, ""),
        ("tokens kept for each second of video", kept / 12, "tokens"),
        ("tokens stored at the end", info["cache_seq_length"], "tokens"),
        ("computation for each second of video", 1.0, "s"),
    ]
    assert info["cache_seq_length"] < kept, "some are evicted"
    assert len(runs.token_measures(rows.drop(columns="computing_s"))) == 4


def test_periodic_questions_are_asked_on_time_and_change_nothing(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, position_mode="remap"))
    asks = runs.ask_periodically(engine, VideoSource(CLIP), 3, "What?", 4)
    assert asks["chunk"].tolist() == [2, 5, 8, 11]
    assert asks["time_s"].tolist() == [2.5, 5.5, 8.5, 11.5]
    assert asks["unchanged"].all()
    assert (asks["ttft"] > 0).all()
    assert asks["video_s"].tolist() == [3, 6, 9, 12] and asks["computing_s"].is_monotonic_increasing
    assert asks["tokens_seen"].tolist() == [38 + 60 * chunks for chunks in (3, 6, 9, 12)]
    assert asks["cache_tokens"].tolist() == [158] * 4 and (asks["tokens_dropped"] == 0).all()


def test_a_change_by_a_question_is_detected(model, processor, monkeypatch):
    engine = VideoStreamingInference(model, processor, "cpu", None)
    ask = engine.ask

    def careless(*arguments, **options):
        engine.cache_manager.cache.layers[1].values[0, 0, 0, 0] += 1
        return ask(*arguments, **options)

    monkeypatch.setattr(engine, "ask", careless)
    assert not runs.ask_periodically(engine, VideoSource(CLIP), 6, "What?", 2)["unchanged"].any()


def test_a_video_shorter_than_the_interval_is_refused_before_it_is_streamed(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, position_mode="remap"))
    with pytest.raises(ValueError, match=r"ASK_INTERVAL=13: .*short\.mp4 has only 12 chunks of 2 frames.*at most 12"):
        runs.ask_periodically(engine, VideoSource(CLIP), 13, "What?", 4)
    assert engine.cache_manager.seen == 0
    assert len(runs.ask_periodically(engine, VideoSource(CLIP), 12, "What?", 4)) == 1


def test_a_shrunk_stream_goes_on_within_the_smaller_budget(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(400, position_mode="remap"))
    rows = runs.shrink_when_full(engine, VideoSource(CLIP), 10**9, smaller=200)
    before, at, after = (rows[rows["stage"] == stage] for stage in ("before shrink", "shrink", "after shrink"))
    # 98 tokens, then 60 for each chunk: six chunks are 398 tokens, so the seventh is the first that evicts.
    assert before["cache_tokens"].tolist() == [98, 158, 218, 278, 338, 398, 398]
    assert at["cache_tokens"].tolist() == [158] and at["chunk"].tolist() == [6], "the sink and one chunk fit into 200 tokens"
    assert after["cache_tokens"].tolist() == [158] * 5 and after["chunk"].tolist() == [7, 8, 9, 10, 11]
    assert max(at["cache_bytes"].item(), after["cache_bytes"].max()) < before["cache_bytes"].iloc[-1]


def test_a_stream_is_shrunk_when_memory_ends_and_the_chunk_without_room_is_appended_again(model, processor, monkeypatch):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(1000, position_mode="remap"))
    append, calls = engine.append_video_chunk, []

    def failing_once(frames, fps):
        calls.append(frames)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return append(frames, fps)

    monkeypatch.setattr(engine, "append_video_chunk", failing_once)
    rows = runs.shrink_when_full(engine, VideoSource(CLIP), 10**9, smaller=200)
    assert len(calls) == 13 and calls[4] is calls[5]
    assert rows["stage"].tolist() == ["before shrink"] * 4 + ["shrink"] + ["after shrink"] * 8
    assert rows["chunk"].tolist() == [0, 1, 2, 3, 4, *range(4, 12)]
    assert engine.cache_manager.chunks_seen == 12, "every chunk once"


def test_the_limit_in_bytes_also_shrinks(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(10_000, position_mode="remap"))
    rows = runs.shrink_when_full(engine, VideoSource(CLIP), 1000 * BYTES, smaller=200)
    assert (rows["stage"] == "shrink").sum() == 1
    assert (rows[rows["stage"] != "before shrink"]["cache_bytes"] <= 1000 * BYTES).all()


def test_what_never_becomes_full_is_not_shrunk(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(1000, position_mode="remap"))
    rows = runs.shrink_when_full(engine, VideoSource(CLIP), 10**9, smaller=200)
    assert set(rows["stage"]) == {"before shrink"} and len(rows) == 12


def test_streams_have_processes_of_one_thread_and_keep_their_order(model, monkeypatch):
    monkeypatch.setattr(runs, "CORES", 2)
    offset, threads = 10, torch.get_num_threads()
    found = runs.each_stream(lambda number: (number + offset, os.getpid(), torch.get_num_threads()), 3, model)
    assert [number for number, *_ in found] == [10, 11, 12]
    assert os.getpid() not in {pid for _, pid, _ in found} and {used for *_, used in found} == {1}
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("cores", [1, 2])
def test_an_error_of_a_stream_is_raised(model, cores, monkeypatch):
    monkeypatch.setattr(runs, "CORES", cores)

    def fail(number):
        raise KeyError(f"stream {number}")

    with pytest.raises(KeyError, match="stream 0"):
        runs.each_stream(fail, 3, model)


def test_a_single_stream_and_those_on_a_gpu_are_processed_here(model, monkeypatch):
    monkeypatch.setattr(runs, "CORES", 2)
    assert runs.each_stream(lambda number: os.getpid(), 1, model) == [os.getpid()]
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    assert runs.each_stream(lambda number: (number, os.getpid()), 2, on_gpu) == [(0, os.getpid()), (1, os.getpid())]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken from a process here")
def test_as_many_processes_as_cores_that_may_be_used():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from kvlib.lab.study import runs; print(runs.CORES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
