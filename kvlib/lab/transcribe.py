"""The text of a video as subtitles, from the command line."""

import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report.files import newest_change
from kvlib.lab.study.runs import load
from kvlib.lab.video.asklog import Ask, AskLog
from kvlib.video import VideoChunks


def transcribe(
    video: str | Path,
    out: Path,
    every: int,
    question: str,
    model_path: str,
    budget: int,
    chunk_frames: int = 2,
    drop_static: float = 0.0,
) -> int:
    """Stream `video`, ask for the text on screen after every `every` chunks and after the last one, and write subtitles to
    `out`; return their number.

    `out` is written after every answer, and the answers are kept in a file beside it, see `AskLog`. A run that was stopped goes
    on with them: the video is streamed again from its beginning, without the questions that were answered. A question leaves
    the stream as it was, so the answers that follow are those of a run that was not stopped.

    budget: the most tokens stored. chunk_frames: frames of a chunk. drop_static: as `VideoStreamingInference` takes it. Raises
    FileNotFoundError for a missing video, model or folder of `out`, PermissionError where `out` cannot be written, ValueError
    for a live source, for a file that is not a video, for an `out` that this function did not write, and for a budget too small
    for a chunk.
    """
    chunks = VideoChunks(video, chunk_frames)
    if chunks.live:
        raise ValueError(
            f"{video} is a live source, and subtitles are written of a file: record it to one first, such as with "
            f"`ffmpeg -i {video} -t 600 recording.mp4`"
        )
    _check_writable(out)
    status = chunks.path.stat()
    settings = {
        "video": str(video),
        "video's size": status.st_size,
        "video's time": status.st_mtime_ns,
        "model": model_path,
        "model's time": newest_change(model_path),
        "budget": budget,
        "frames per chunk": chunks.chunk_frames,
        "frames per second": chunks.sample_fps,
        "drop_static": drop_static,
        "every": every,
        "question": question,
    }
    log, console = AskLog(out, settings), Console(stderr=True, soft_wrap=True)
    if log.changed:
        console.print(f"starting over, because of another {', '.join(log.changed)}", markup=False, highlight=False)
    if not log.finished:
        model, processor = load(model_path)
        engine = VideoStreamingInference(model, processor, model.device, EvictionConfig(budget), drop_static=drop_static)
        _ask_all(engine, chunks, log, every, question, console)
    return log.write_subtitles()


def _ask_all(engine, chunks: VideoChunks, log: AskLog, every: int, question: str, console: Console) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn()
    answered = log.asks[-1].chunk if log.asks else -1
    with Progress(*columns, console=console, transient=True) as progress:
        again = progress.add_task("streaming again", total=answered + 1, shown="", visible=bool(log.asks))
        reading = progress.add_task("reading", total=len(chunks) - answered - 1, shown="", start=not log.asks)

        def ask(index: int, chunk) -> None:
            answer, _ = engine.ask(question, do_sample=False)
            log.add(Ask(index, chunk.time_s, chunk.time_s + 1 / chunk.fps, answer))

        for index, chunk in enumerate(chunks):
            engine.append_video_chunk(chunk.frames, chunk.fps, chunk.time_s)
            if index > answered and (index + 1) % every == 0:
                ask(index, chunk)
            progress.update(again if index <= answered else reading, advance=1, shown=f"{chunk.time_s:.0f} s")
            if index == answered:
                progress.start_task(reading)
        if index > answered and (index + 1) % every:
            ask(index, chunk)
    log.finish()


def _check_writable(out: Path) -> None:
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} for {out.name}: make it, or give another -o")
    if out.is_dir():
        raise ValueError(f"{out} is a folder: give -o the name of an .srt")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"the folder {out.parent} may not be written: change its permissions, or give another -o")
