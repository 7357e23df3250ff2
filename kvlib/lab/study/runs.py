"""Runs of one engine over one video, each as a table; loading the model; running many streams on all cores."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import BaseContext

import cloudpickle
import numpy as np
import pandas as pd
import torch
from dask.system import CPU_COUNT
from tqdm.auto import tqdm

from kvlib.evictor import EvictionConfig
from kvlib.lab.video.calibration import first_frames
from kvlib.lab.video.source import VideoSource, height_within
from kvlib.model import Processor, StreamQwenModel, load_processor
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunk

CORES = CPU_COUNT  # that this process may use, of those the machine has
NO_PIXEL_LIMIT = 10**9
SINK_FPS = 2.0  # frames per second of `detect_sinks`
OUT_OF_MEMORY = "out of memory"
TOTALS = ["tokens_seen", "tokens_dropped", "video_s", "computing_s"]  # of a run so far, see `Metered`


class Metered:
    """In the place of `engine` while chunks are appended: adds up their seconds of video and of computation.

    Both methods return what those of the engine do, and `video_s` and `computing_s` so far. On CUDA the device is waited for.
    """

    def __init__(self, engine: VideoStreamingInference):
        self.engine, self.video_s, self.computing_s = engine, 0.0, 0.0

    def append_video_chunk(self, frames, fps: float, time_s: float | None = None) -> dict:
        began = time.perf_counter()
        self.engine.append_video_chunk(frames, fps, time_s)
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        self.computing_s += time.perf_counter() - began
        self.video_s += len(frames) / fps
        return self.get_cache_info()

    def get_cache_info(self) -> dict:
        return self.engine.get_cache_info() | dict(video_s=self.video_s, computing_s=self.computing_s)


def token_measures(rows: pd.DataFrame) -> list[tuple[str, float, str]]:
    """What a run has streamed: (name, value, unit) for `Report.measure`.

    rows: a table of `stream_video` or `ask_periodically`, or of one method of `compare_on_video`; the last row counts.
    Its tokens are those of all chunks, with the text around the frames; those that were dropped were never stored.
    """
    last = rows.iloc[-1]
    kept = last["tokens_seen"] - last["tokens_dropped"]
    found = [
        ("tokens of the video", int(last["tokens_seen"]), "tokens"),
        ("share of these tokens dropped", float(last["tokens_dropped"] / last["tokens_seen"]), ""),
        ("tokens kept for each second of video", float(kept / last["video_s"]), "tokens"),
        ("tokens stored at the end", int(last["cache_tokens"]), "tokens"),
    ]
    if "computing_s" in rows:
        found.append(("computation for each second of video", float(last["computing_s"] / last["video_s"]), "s"))
    return found


def default_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(path, device=None):
    """Model (bf16 on CUDA, fp32 on a CPU, where bf16 is slower) and processor of the checkpoint at `path`."""
    device = device or default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    processor = load_processor(path)  # first: what is wrong with its small files is found before the weights are read
    return StreamQwenModel.from_pretrained(path, dtype=dtype).to(device).eval(), processor


def detect_sinks(
    model, processor, video, chunk_frames: Iterable[int], heights: Iterable[int], chunks: int, budget: int, position_mode: str
):
    """Stream the first `chunks` chunks for every chunk size and frame height (pixels), with a budget too large to evict.

    A height of 0, and one above the video's own, stands for the video's own. Heights that come out the same are done once.

    The processor's upper pixel limit is lifted for this run. With the limit every height would be resized to the same few
    tokens. Only lengths are measured, so the model need not be able to read frames of such a size.

    Returns two tables: increments [configuration, chunk, new_tokens] and sinks [configuration, chunk_frames, height,
    sink_tokens, first_length, window_tokens, mean_recorded, mean_real, tokens_per_s, evictions]; tokens_per_s is of these
    chunks, for each second of video.
    """
    increments, sinks, unlimited = [], [], without_pixel_limit(processor)
    (_, own, _), _ = first_frames(VideoSource(video, 1, SINK_FPS))
    heights = dict.fromkeys(height_within(height, own) for height in heights)
    settings = [(count, height) for count in chunk_frames for height in heights]
    for count, height in tqdm(settings, desc="configurations"):
        name = f"{count} frames, {height} px"
        config = EvictionConfig(budget, position_mode=position_mode)
        engine = VideoStreamingInference(model, unlimited, model.device, config)
        seen, video_s = [0], 0.0
        for _, chunk in islice(VideoSource(video, count, SINK_FPS, height).chunks(name), chunks):
            seen.append(engine.append_video_chunk(chunk.frames, chunk.fps)["tokens_seen"])
            video_s += len(chunk.frames) / chunk.fps
        new = np.diff(seen)
        evictor = engine.cache_manager.evictor
        increments += [dict(configuration=name, chunk=i, new_tokens=int(n)) for i, n in enumerate(new)]
        sinks.append(
            dict(
                configuration=name,
                chunk_frames=count,
                height=height,
                sink_tokens=evictor.effective_sink_size,
                first_length=seen[1],
                window_tokens=evictor.effective_window_size,
                mean_recorded=evictor._avg_chunk_tokens,
                mean_real=float(new[1:].mean()) if len(new) > 1 else 0.0,  # as the recorded mean of no chunks
                tokens_per_s=seen[-1] / video_s,
                evictions=evictor.total_evictions,
            )
        )
    return pd.DataFrame(increments), pd.DataFrame(sinks)


def stream_video(
    engine, source: VideoSource, run: str, limit_bytes: int | None = None, tokens: float = math.inf
) -> pd.DataFrame:
    """Stream a video into `engine` until the video or the memory ends, or until more than `tokens` tokens were stored, those
    counted that were evicted since.

    A table [run, chunk, time_s, cache_tokens, cache_bytes, peak_bytes, reserved_bytes, event, and `TOTALS` so far], a row per
    chunk. `event` is "" or "eviction"; it is "out of memory" in the last row when memory ended: on CUDA's own error or, with
    `limit_bytes`, when the cache takes more bytes than that. `peak_bytes` and `reserved_bytes` are the most that torch had
    allocated and reserved on a CUDA device since the run began; on a CPU both are the cache's bytes.
    """
    rows, evictions, cuda, metered = [], 0, engine.device.type == "cuda", Metered(engine)
    if cuda:
        torch.cuda.empty_cache()  # what an earlier run reserved must not count here
        torch.cuda.reset_peak_memory_stats(engine.device)
    for index, chunk in source.chunks(run):
        info, full, _ = _append_within(metered, chunk, limit_bytes)
        held = info["cache_bytes"]
        peak = torch.cuda.max_memory_allocated(engine.device) if cuda else held
        reserved = torch.cuda.max_memory_reserved(engine.device) if cuda else held
        now = info.get("eviction_stats", {}).get("total_evictions", 0)
        event = OUT_OF_MEMORY if full else "eviction" if now > evictions else ""
        evictions = now
        rows.append(dict(run=run, chunk=index, time_s=chunk.time_s, cache_tokens=info["cache_seq_length"], cache_bytes=held,
                         peak_bytes=peak, reserved_bytes=reserved, event=event, **_totals(info)))  # fmt: skip
        if full or info["tokens_seen"] - info["tokens_dropped"] > tokens:
            break
    return pd.DataFrame(rows)


def shrink_when_full(engine, source: VideoSource, limit_bytes: int, smaller: int) -> pd.DataFrame:
    """Stream a video until the memory or the budget is full, shrink the budget to `smaller` tokens, and stream the rest.

    engine: one with an `EvictionConfig`. The memory is full where `stream_video` would end, the budget at the first eviction.
    A chunk that CUDA had no memory for is appended again after `shrink`.

    A table [stage, chunk, cache_tokens, cache_bytes], a row per chunk, with the stage "before shrink" or "after shrink", and
    one more row with the stage "shrink", directly after that call. When nothing becomes full, all rows are "before shrink".
    Raises torch.OutOfMemoryError when memory ends after `shrink`.
    """
    rows, shrunk = [], False

    def note(stage: str, index: int, info: dict) -> None:
        rows.append(dict(stage=stage, chunk=index, cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"]))

    for index, chunk in source.chunks("shrink"):
        if shrunk:
            note("after shrink", index, engine.append_video_chunk(chunk.frames, chunk.fps))
            continue
        info, full, appended = _append_within(engine, chunk, limit_bytes)
        if appended:
            note("before shrink", index, info)
        if full or info["eviction_stats"]["total_evictions"]:
            note("shrink", index, engine.shrink(smaller))
            shrunk = True
        if not appended:
            note("after shrink", index, engine.append_video_chunk(chunk.frames, chunk.fps))
    return pd.DataFrame(rows)


def ask_periodically(engine, source: VideoSource, interval: int, question: str, max_new_tokens: int) -> pd.DataFrame:
    """Stream a video and ask after every `interval` chunks, greedily.

    A table [time_s, chunk, answer, unchanged, cache_tokens, `TOTALS` so far, ttft, decode_tokens_per_s, new_tokens and the
    other metrics of `ask`].
    `unchanged`: whether a SHA-256 of every stored key and value and of all records is the same before and after the question.
    Raises ValueError for a video of fewer than `interval` chunks.
    """
    source.check_interval(interval)
    rows, metered = [], Metered(engine)
    for index, chunk in source.chunks():
        info = metered.append_video_chunk(chunk.frames, chunk.fps, chunk.time_s)
        if (index + 1) % interval:
            continue
        before = engine.cache_manager.fingerprint()
        answer, metrics = engine.ask(question, max_new_tokens=max_new_tokens, do_sample=False)
        unchanged = engine.cache_manager.fingerprint() == before
        stored = dict(cache_tokens=info["cache_seq_length"], **_totals(info))
        rows.append(dict(time_s=chunk.time_s, chunk=index, answer=answer, unchanged=unchanged, **stored, **metrics))
    return pd.DataFrame(rows)


def each_stream(process: Callable, streams: int, model) -> list:
    """`process(number)` for every stream number, in order; several on a CPU in a process per core, each with one thread.

    The tensors of the embedded reader are too small for torch to profit from splitting one operation over cores, and threads of
    one process share Python's interpreter lock. A process receives `process` and what it refers to, the model too, once. What
    `process` changes there is lost; what it returns or raises is handed on. A single stream, and any number on CUDA or on one
    core, are processed here.
    """
    numbers, workers = range(streams), min(CORES, streams) if model.device.type == "cpu" else 1
    if workers < 2:
        return [process(number) for number in tqdm(numbers, desc="streams")]
    with ProcessPoolExecutor(workers, _clean_processes(), _receive, (cloudpickle.dumps(process),)) as pool:
        return list(tqdm(pool.map(_process_received, numbers), total=streams, desc="streams"))


def _clean_processes() -> BaseContext:
    """Processes are forked from one that has imported this module and has computed nothing: after torch has used its threads, a
    forked process may wait for them forever."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _receive(pickled: bytes) -> None:
    global _received
    torch.set_num_threads(1)
    _received = cloudpickle.loads(pickled)


def _process_received(number: int):
    return _received(number)


def _totals(info: dict) -> dict:
    return {name: info[name] for name in TOTALS}


def _append_within(engine, chunk: VideoChunk, limit_bytes: int | None) -> tuple[dict, bool, bool]:
    """Append a chunk: (`get_cache_info()`, whether memory ended, whether the chunk was appended)."""
    try:
        info = engine.append_video_chunk(chunk.frames, chunk.fps)
    except torch.OutOfMemoryError:
        return engine.get_cache_info(), True, False
    return info, limit_bytes is not None and info["cache_bytes"] > limit_bytes, True


def without_pixel_limit(processor) -> Processor:
    """The same tokenizer and a copy of the image settings without an upper pixel limit."""
    settings = copy.copy(processor.image_processor)
    settings.size = {"shortest_edge": settings.size["shortest_edge"], "longest_edge": NO_PIXEL_LIMIT}
    return Processor(processor.tokenizer, settings)
