"""One question about one video, from the command line."""

import math
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.study.runs import load
from kvlib.video import VideoChunks


def ask_video(
    video: str | Path,
    question: str,
    model_path: str,
    budget: int,
    at: float | None = None,
    chunk_frames: int = 2,
    drop_static: float = 0.0,
) -> str:
    """Stream `video`, a file or the address of a live source, into the model at `model_path` up to second `at` (None = its
    end) and return the greedy answer.

    budget: the most tokens stored. chunk_frames: frames of a chunk. drop_static: as `VideoStreamingInference` takes it.
    Raises FileNotFoundError for a missing video or model, ValueError for a video without a frame up to `at`, for a budget too
    small for a chunk and for an empty question.
    """
    if not question.strip():
        raise ValueError("the question is empty: give a text")
    chunks = VideoChunks(video, chunk_frames)
    model, processor = load(model_path)
    engine = VideoStreamingInference(model, processor, model.device, EvictionConfig(budget), drop_static=drop_static)
    stream_until(engine, chunks, math.inf if at is None else at)
    answer, _ = engine.ask(question, do_sample=False)
    return answer


def stream_until(engine: VideoStreamingInference, chunks: VideoChunks, at: float) -> None:
    """Append all frames up to second `at`, with a progress bar on standard error.

    Raises ValueError where there is no such frame.
    """
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("streaming", total=None if math.isinf(at) else at, shown="")
        for chunk in chunks:
            early = sum(time <= at for time in chunk.times)
            if early:
                info = engine.append_video_chunk(chunk.frames[:early], chunk.fps, chunk.times[early - 1])
                shown = f"{chunk.times[early - 1]:.0f} s, {info['cache_seq_length']:,} tokens"
                shown += f", {info['tokens_dropped']:,} dropped" if info["tokens_dropped"] else ""
                progress.update(task, completed=chunk.times[early - 1], shown=shown)
            if early < len(chunk.frames):
                break
    if not engine.cache_manager.chunks:
        raise ValueError(f"--at {at:g}: no frame of the video is that early; give a later second")
