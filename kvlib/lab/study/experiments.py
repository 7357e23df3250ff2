"""The runs behind the notebooks: each streams real frames through the engine and returns tidy tables."""

import copy
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from tempfile import NamedTemporaryFile

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from kvlib.evictor import EvictionConfig
from kvlib.lab.report import paths
from kvlib.lab.report.report import device_name, write_atomic
from kvlib.lab.study.baselines import LastFrames
from kvlib.lab.study.scoring import normalise
from kvlib.lab.study.synthetic import QUESTIONS, Scene, draw_stream, render, write_video
from kvlib.lab.study.synthetic import answer as true_answer
from kvlib.model import Processor, StreamQwenModel, load_processor
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunks

CARD_LIMIT = int(23.3 * 2**30)  # bytes: what a 24 GB card leaves to a process
CPU_CACHE_LIMIT = int(10.5 * 2**20)  # bytes of cache: a small stand-in for a card, for the embedded reader
READER_BUDGETS = (600, 800, 1200)  # tokens, lowest, first, highest to try: the reader was trained on about 1000
MODEL_BUDGETS = (100_000, 130_000, 150_000)  # the same for real weights: Qwen2.5-VL-3B at 1080p on a 24 GB card
NO_PIXEL_LIMIT = 10**9
SOURCE_SIZE = (560, 280)  # width and height of the synthetic streams, in pixels


def default_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(path, device=None):
    """Model (bf16 on CUDA, fp32 on a CPU, where bf16 is slower) and processor of the checkpoint at `path`."""
    device = device or default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return StreamQwenModel.from_pretrained(path, dtype=dtype).to(device).eval(), load_processor(path)


def detect_sinks(model, processor, video, chunk_frames: Iterable[int], heights: Iterable[int], chunks: int, budget: int):
    """Stream the first `chunks` chunks for every chunk size and frame height (pixels), with a budget too large to evict.

    The processor's upper pixel limit is lifted for this run, or it would shrink all heights to the same few tokens; only
    lengths are measured, so it does not matter that the model cannot read frames of such a size.
    Returns two tables: increments [configuration, chunk, new_tokens] and sinks [configuration, chunk_frames, height,
    sink_tokens, first_length, window_tokens, mean_recorded, mean_real, evictions].
    """
    increments, sinks, unlimited = [], [], _without_pixel_limit(processor)
    settings = [(count, height) for count in chunk_frames for height in heights]
    for count, height in tqdm(settings, desc="configurations"):
        name = f"{count} frames, {height} px"
        engine = VideoStreamingInference(model, unlimited, model.device, EvictionConfig(budget))
        seen = [0]
        for _, (_, frames) in zip(range(chunks), VideoChunks(video, count), strict=False):
            seen.append(engine.append_video_chunk(resize_to_height(frames, height))["tokens_seen"])
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
                mean_real=float(new[1:].mean()),
                evictions=evictor.total_evictions,
            )
        )
    return pd.DataFrame(increments), pd.DataFrame(sinks)


def stream_video(
    engine, video, chunk_frames: int, sample_fps: float, run: str, limit_bytes: int | None = None, tokens: float = math.inf
):
    """Stream a video, or as much of it as makes `tokens`.

    A table [run, chunk, time_s, cache_tokens, cache_bytes, peak_bytes, reserved_bytes, event], a row per chunk.

    It ends early at the end of memory, which is CUDA's own error or, with `limit_bytes`, more cache bytes than that; the
    last row's event is then "out of memory". `peak_bytes` and `reserved_bytes` are what torch had allocated and reserved at
    most on a CUDA device since the run began; on a CPU both are the cache's bytes.
    """
    rows, evictions, cuda = [], 0, engine.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()  # what an earlier run reserved must not count here
        torch.cuda.reset_peak_memory_stats(engine.device)
    for index, (time_s, frames) in enumerate(tqdm(VideoChunks(video, chunk_frames, sample_fps), desc=run, leave=False)):
        try:
            info = engine.append_video_chunk(frames, sample_fps)
        except torch.OutOfMemoryError:
            info = engine.get_cache_info()
            limit_bytes = 0
        held = info["cache_bytes"]
        peak = torch.cuda.max_memory_allocated(engine.device) if cuda else held
        reserved = torch.cuda.max_memory_reserved(engine.device) if cuda else held
        full = limit_bytes is not None and held > limit_bytes
        now = info.get("eviction_stats", {}).get("total_evictions", 0)
        event = "out of memory" if full else "eviction" if now > evictions else ""
        evictions = now
        rows.append(dict(run=run, chunk=index, time_s=time_s, cache_tokens=info["cache_seq_length"], cache_bytes=held,
                         peak_bytes=peak, reserved_bytes=reserved, event=event))  # fmt: skip
        if full or info["tokens_seen"] > tokens:
            break
    return pd.DataFrame(rows)


def tune_budget(make_engine, video, chunk_frames: int, sample_fps: float, budgets, limit_bytes: int):
    """Find the largest safe budget: from the middle of `budgets` (low, start, high) up while the peak of reserved memory stays
    under 21/24 of `limit_bytes`, keep it at 21/24 to 23/24, down when memory ends. Each budget is filled twice over: what a
    full cache takes does not grow any more. `make_engine(budget)` makes the engine; no other should hold memory meanwhile.

    Returns a table [budget, peak_share, chunks_in_window, verdict] and the chosen budget (None when even the lowest fails).
    """
    low, start, high = budgets
    step, tried, budget, best = max(1, (high - start) // 2), [], start, None
    while low <= budget <= high and budget not in [row["budget"] for row in tried]:
        engine = make_engine(budget)
        rows = stream_video(engine, video, chunk_frames, sample_fps, f"budget {budget}", limit_bytes, 2 * budget)
        share = rows["reserved_bytes"].max() / limit_bytes
        failed = rows["event"].iloc[-1] == "out of memory" or share > 23 / 24
        verdict = "out of memory" if failed else "keep" if share >= 21 / 24 else "room left"
        tried.append(dict(budget=budget, peak_share=share, chunks_in_window=len(engine.cache_manager.chunks), verdict=verdict))
        if not failed:
            best = max(best or 0, budget)
        if verdict == "keep" or (failed and best is not None):
            break
        budget = budget + step if not failed else low
    return pd.DataFrame(tried), best


def default_budgets(model_path: str) -> tuple[int, int, int]:
    """The lowest, the first and the highest budget to try with a model, in tokens."""
    return READER_BUDGETS if paths.shown(model_path) == paths.DEFAULT_MODEL else MODEL_BUDGETS


def save_budget(tokens: int, model_path: str, device, output_dir: str = "") -> None:
    """Make `tokens` the default budget of this model on this device, for `choose_budget`."""
    path = paths.budgets_path(output_dir)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known.setdefault(device_name(device), {})[paths.shown(model_path)] = tokens
    write_atomic(path, json.dumps(known, indent=1, sort_keys=True))


def choose_budget(tokens: int, model_path: str, device, output_dir: str = "") -> tuple[int, str]:
    """The budget in tokens and where it comes from. `tokens` itself, if not 0; else what `save_budget` last stored for this
    model and device in this output folder; else the first of `default_budgets`."""
    if tokens:
        return tokens, "given"
    path = paths.budgets_path(output_dir)
    known = json.loads(path.read_text()) if path.is_file() else {}
    found = known.get(device_name(device), {}).get(paths.shown(model_path))
    if found:
        return found, f"found safe by 02_oom_free ({paths.shown(path)})"
    return default_budgets(model_path)[1], "the default, not yet tuned by 02_oom_free"


def ask_periodically(engine, video, chunk_frames: int, sample_fps: float, interval: int, question: str, max_new_tokens: int):
    """Stream a video and ask after every `interval` chunks, greedily.

    A table [time_s, chunk, answer, ttft, decode_tokens_per_s, new_tokens, unchanged]; `unchanged` compares a SHA-256 of
    every stored key and value and of all records before and after the question.
    """
    rows = []
    for index, (time_s, frames) in enumerate(tqdm(VideoChunks(video, chunk_frames, sample_fps), desc="chunks")):
        engine.append_video_chunk(frames, sample_fps)
        if (index + 1) % interval:
            continue
        before = engine.cache_manager.fingerprint()
        answer, metrics = engine.ask(question, max_new_tokens=max_new_tokens, do_sample=False)
        unchanged = engine.cache_manager.fingerprint() == before
        rows.append(dict(time_s=time_s, chunk=index, answer=answer, unchanged=unchanged, **metrics))
    return pd.DataFrame(rows)


def judge(answer: str, truth: str) -> dict:
    """The columns `answer` and `correct`: whether it is the truth after `normalise`."""
    return {"answer": answer, "correct": normalise(answer) == normalise(truth)}


def _without_pixel_limit(processor) -> Processor:
    """The same tokenizer and a copy of the image settings that shrinks no frame."""
    settings = copy.copy(processor.image_processor)
    settings.size = {"shortest_edge": settings.size["shortest_edge"], "longest_edge": NO_PIXEL_LIMIT}
    return Processor(processor.tokenizer, settings)


def resize_to_height(frames: np.ndarray, height: int) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] resized to `height` pixels, the aspect kept."""
    width = round(frames.shape[2] * height / frames.shape[1])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return interpolate(pixels, (height, width), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def accuracy_over_length(model, processor, lengths, streams: int, budget: int, seed: int, modes=("keep", "remap")):
    """Title and current line after streams of `lengths` chunks, for every position mode on the same held-out streams.

    Each stream is drawn, encoded to H.264, decoded and put through the vision tower once, and watched by one engine per
    mode, all with the same `budget` in tokens. On a CPU every core watches a stream of its own.

    A table [stream, position_mode, chunks, question, truth, answer, correct, first_eviction]; the last is the stream length
    at which the first eviction came, NaN if none did.
    """

    def watch(stream: int) -> list[dict]:
        return _watch_stream(model, processor, lengths, stream, budget, seed, modes)

    return pd.DataFrame([row for rows in each_stream(watch, streams, model) for row in rows])


def each_stream(watch: Callable, streams: int, model) -> list:
    """`watch(number)` for every stream, in order; on a CPU one per core, because the tensors are too small to be split."""
    workers, threads = os.cpu_count() if model.device.type == "cpu" else 1, torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(tqdm(pool.map(watch, range(streams)), total=streams, desc="streams"))
    finally:
        torch.set_num_threads(threads)  # MKL keeps one number for the whole process


def play(scenes: Sequence[Scene]) -> Iterator[np.ndarray]:
    """The scenes as H.264, decoded again: uint8 [2, H, W, 3] for each, at two frames per second."""
    with NamedTemporaryFile(suffix=".mp4") as file:
        write_video(file.name, (frame for scene in scenes for frame in render(scene, *SOURCE_SIZE, 2)), fps=2)
        for _, frames in VideoChunks(file.name, 2, 2):
            yield frames


def engines_by_mode(model, processor, budget: int, modes: Iterable[str]) -> dict[str, VideoStreamingInference]:
    """A sink + window engine of `budget` tokens for every position mode."""
    configs = {mode: EvictionConfig(budget, position_mode=mode) for mode in modes}
    return {mode: VideoStreamingInference(model, processor, model.device, config) for mode, config in configs.items()}


def watch_together(engines: Iterable, frames, fps: float = 2.0) -> None:
    """Let engines on one model watch the same frames, which go through the vision tower once; `LastFrames` keeps them."""
    chunk = None
    for engine in engines:
        if isinstance(engine, LastFrames):
            engine.append_video_chunk(frames, fps)
            continue
        chunk = chunk or engine.encode(frames, fps)
        engine.append_encoded(chunk)


def _watch_stream(model, processor, lengths, stream: int, budget: int, seed: int, modes) -> list[dict]:
    scenes = draw_stream(max(lengths), seed + stream)
    for index in lengths:  # a blank screen would be a question of another kind
        scenes[index - 1] = replace(scenes[index - 1], text=scenes[index - 1].text or f"Line {index}")
    engines, rows, first_eviction = engines_by_mode(model, processor, budget, modes), [], math.nan
    for index, frames in enumerate(play(scenes), start=1):
        watch_together(engines.values(), frames)
        for mode, engine in engines.items():
            if math.isnan(first_eviction) and engine.cache_manager.evictor.total_evictions:
                first_eviction = index
            if index in lengths:
                asked = _ask_title_and_line(engine, scenes[:index])
                rows += [dict(stream=stream, position_mode=mode, chunks=index, **row) for row in asked]
    return [row | {"first_eviction": first_eviction} for row in rows]


def count_correct(answers: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Per group: the columns `by`, correct, n, accuracy and its 95% Wilson interval (low, high)."""
    counted = answers.groupby(by, sort=False)["correct"].agg(["sum", "count"]).reset_index()
    counted = counted.rename(columns={"sum": "correct", "count": "n"})
    counted["accuracy"] = counted["correct"] / counted["n"]
    counted["low"], counted["high"] = proportion_confint(counted["correct"], counted["n"], method="wilson")
    return counted


def _ask_title_and_line(engine, scenes) -> list[dict]:
    asked = []
    for kind, name in (("title", "title"), ("now", "current line")):
        truth = true_answer(scenes, kind)
        answer, _ = engine.ask(QUESTIONS[kind][0], max_new_tokens=60, do_sample=False)
        asked.append(dict(question=name, truth=truth, **judge(answer, truth)))
    return asked


def cap_memory(limit_mb: float, device: torch.device) -> int:
    """The memory limit in bytes; `limit_mb` 0 stands for `CARD_LIMIT` on CUDA and `CPU_CACHE_LIMIT` on a CPU.

    On CUDA the process is really held to it; on a CPU it limits the cache's bytes, and `stream_video` watches it.
    """
    limit = int(limit_mb * 2**20) or (CARD_LIMIT if device.type == "cuda" else CPU_CACHE_LIMIT)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), index)
    return limit


def count_chunks(video, chunk_frames: int, sample_fps: float) -> int:
    """Number of chunks of a video."""
    return len(VideoChunks(video, chunk_frames, sample_fps))
