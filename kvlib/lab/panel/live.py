"""A stream in a thread of its own: started, paused and stopped from outside, and asked questions in between."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kvlib.lab.study.scoring import exact_match
from kvlib.lab.video.source import resize_to_height
from kvlib.lab.video.subtitles import read_srt, truth_at
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunks

PICTURE_HEIGHT = 36  # pixels of the small pictures
LOOK_AGAIN = 0.2  # seconds: a question that ctrl-C has ended while it waited cannot notify the stream
KINDS = ("sink", "history", "window", "evicted")


class LiveStream:
    """Streams a video into an engine in a thread of its own. A question waits for the chunk that is being processed, and the
    next chunk waits for the question.

    engine: one without any chunk yet. video: a file; an .srt of the same name beside it is the ground truth. changed: called
    from the thread after every chunk and when the stream ends; an exception that it raises ends the stream.

    `rows` has, for every chunk processed, chunk, time_s, cache_tokens, cache_bytes, seconds and event ("eviction" or "");
    `pictures` its last frame, small, uint8 [H, W, 3]; `answers` a row for every question. `error` is the exception that
    ended the stream, or None. Raises what `VideoChunks` and `read_srt` raise.
    """

    def __init__(
        self,
        engine: VideoStreamingInference,
        video: Path,
        chunk_frames: int,
        sample_fps: float,
        changed: Callable[[], None] = lambda: None,
    ):
        self.engine, self.changed = engine, changed
        self.chunks = VideoChunks(video, chunk_frames, sample_fps)
        subtitles = video.with_suffix(".srt")
        self.subtitles = read_srt(subtitles) if subtitles.is_file() else None
        self.rows: list[dict] = []
        self.pictures: list[np.ndarray] = []
        self.answers: list[dict] = []
        self.error: Exception | None = None
        self.state = "ready"  # then running, paused, and at the end finished, stopped or failed
        self._turn = threading.Condition()  # held by whoever uses the engine: a chunk or a question
        self._questions: set[object] = set()
        self._thread = threading.Thread(target=self._process, daemon=True)

    def start(self) -> None:
        """Begin, or continue after a pause."""
        if self.state == "ready":
            self.state = "running"
            self._thread.start()
        self._change("paused", "running")

    def pause(self) -> None:
        """Process no further chunk after the current one, until `start`."""
        self._change("running", "paused")

    def stop(self) -> None:
        """End the stream after the current chunk; questions are still answered."""
        self._change("running", "stopped")
        self._change("paused", "stopped")
        self.wait()

    def wait(self, seconds: float | None = None) -> None:
        """Return when the stream has ended, or after so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def ask(self, question: str, max_new_tokens: int = 60) -> dict:
        """Ask, greedily, between two chunks: a row [time_s, question, answer, ttft, truth, correct], also kept in `answers`.

        truth and correct are of the text on screen, None without subtitles. Raises what `VideoStreamingInference.ask` raises.
        """
        with self._asking():
            answer, metrics = self.engine.ask(question, max_new_tokens=max_new_tokens, do_sample=False)
            time_s = self.rows[-1]["time_s"]
        truth = None if self.subtitles is None else truth_at(self.subtitles, time_s)
        correct = None if truth is None else exact_match(answer, truth)
        row = dict(time_s=time_s, question=question, answer=answer, ttft=metrics["ttft"], truth=truth, correct=correct)
        self.answers.append(row)
        return row

    def kinds(self) -> list[str]:
        """The state of every chunk processed, one of `KINDS`; the window is the newest chunks that are stored without a gap."""
        with self._asking():
            manager = self.engine.cache_manager
            alive = {chunk.index for chunk in manager.chunks}
            sink = manager.evictor.sink_chunks if manager.evictor else 0
        newest = len(self.rows)
        while newest and newest - 1 in alive:
            newest -= 1
        kinds = ["history" if index in alive else "evicted" for index in range(len(self.rows))]
        return ["sink" if i < sink else "window" if i >= newest else kind for i, kind in enumerate(kinds)]

    @contextmanager
    def _asking(self):
        """The engine, for a question. The question is registered before it waits, so that the next chunk lets it pass."""
        question = object()
        self._questions.add(question)
        try:
            with self._turn:
                try:
                    yield
                finally:
                    self._questions.discard(question)
                    self._turn.notify_all()
        finally:  # also when ctrl-C ends the wait
            self._questions.discard(question)

    def _change(self, before: str, after: str) -> None:
        with self._turn:
            if self.state == before:
                self.state = after
                self._turn.notify_all()

    def _process(self) -> None:
        evictions = 0
        try:
            for index, chunk in enumerate(self.chunks):
                with self._turn:
                    while self.state == "paused" or (self.state == "running" and self._questions):
                        self._turn.wait(LOOK_AGAIN)
                    if self.state == "stopped":
                        break
                    began = time.perf_counter()
                    info = self.engine.append_video_chunk(chunk.frames, chunk.fps)
                    known = dict(chunk=index, time_s=chunk.time_s, seconds=time.perf_counter() - began)
                    total = info.get("eviction_stats", {}).get("total_evictions", 0)
                    known |= dict(cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"])
                    self.rows.append(known | {"event": "eviction" if total > evictions else ""})
                    self.pictures.append(resize_to_height(chunk.frames[-1:], PICTURE_HEIGHT)[0])
                    evictions = total
                self.changed()
            self._change("running", "finished")
        except Exception as error:  # kept: a thread has no caller to raise it to
            self.error, self.state = error, "failed"
        self.changed()
