"""A stream that runs while one looks: started, paused and stopped from outside, and asked in between."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kvlib.lab.study.experiments import resize_to_height
from kvlib.lab.study.scoring import read_srt, reads, truth_at
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunks

PICTURE_HEIGHT = 36  # pixels of the small pictures
KINDS = ("sink", "history", "window", "evicted")


class LiveStream:
    """Watches a video in a thread of its own. A question waits for the chunk in flight, and the next chunk for the question.

    engine: of nothing watched yet. video: with an .srt beside it, if there is one, as ground truth. changed: called from the
    thread after every chunk, and when the stream ends; what it raises ends the stream.

    `rows` has, for every chunk watched, chunk, time_s, cache_tokens, cache_bytes, seconds and event ("eviction" or "");
    `pictures` its last frame, small, uint8 [H, W, 3]; `answers` a row for every question. `error` is what ended the stream, if
    anything did. Raises what `VideoChunks` and `read_srt` raise.
    """

    def __init__(
        self,
        engine: VideoStreamingInference,
        video: Path,
        chunk_frames: int,
        sample_fps: float,
        changed: Callable[[], None] = lambda: None,
    ):
        self.engine, self.sample_fps, self.changed = engine, sample_fps, changed
        self.chunks = VideoChunks(video, chunk_frames, sample_fps)
        subtitles = video.with_suffix(".srt")
        self.subtitles = read_srt(subtitles) if subtitles.is_file() else None
        self.rows: list[dict] = []
        self.pictures: list[np.ndarray] = []
        self.answers: list[dict] = []
        self.error: Exception | None = None
        self.state = "ready"  # then running, paused, and at the end finished, stopped or failed
        self._turn = threading.Condition()  # whose turn it is on the engine: the next chunk's or a question's
        self._questions: set[object] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to watch, or go on after a pause."""
        if self.state == "ready":
            self.state = "running"
            self._thread.start()
        self._change("paused", "running")

    def pause(self) -> None:
        """Watch nothing more, from the chunk in flight on, until `start`."""
        self._change("running", "paused")

    def stop(self) -> None:
        """End for good, after the chunk in flight; questions are still answered."""
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
        correct = None if truth is None else reads(answer, truth)
        row = dict(time_s=time_s, question=question, answer=answer, ttft=metrics["ttft"], truth=truth, correct=correct)
        self.answers.append(row)
        return row

    def kinds(self) -> list[str]:
        """What has become of every chunk watched, one of `KINDS`; the window is what is stored without a gap up to now."""
        with self._asking():
            manager = self.engine.cache_manager
            alive = {chunk.index for chunk in manager.chunks}
            sink = manager.evictor._sink_chunks if manager.evictor else 0
        newest = len(self.rows)
        while newest and newest - 1 in alive:
            newest -= 1
        kinds = ["history" if index in alive else "evicted" for index in range(len(self.rows))]
        return ["sink" if i < sink else "window" if i >= newest else kind for i, kind in enumerate(kinds)]

    @contextmanager
    def _asking(self):
        """The engine, for a question, that is known to wait before it does, so that the next chunk lets it pass."""
        question = object()
        self._questions.add(question)
        with self._turn:
            try:
                yield
            finally:
                self._questions.discard(question)
                self._turn.notify_all()

    def _change(self, before: str, after: str) -> None:
        with self._turn:
            if self.state == before:
                self.state = after
                self._turn.notify_all()

    def _watch(self) -> None:
        evictions = 0
        try:
            for index, (time_s, frames) in enumerate(self.chunks):
                with self._turn:
                    self._turn.wait_for(lambda: self.state == "stopped" or (self.state == "running" and not self._questions))
                    if self.state == "stopped":
                        break
                    began = time.perf_counter()
                    info = self.engine.append_video_chunk(frames, self.sample_fps)
                    known = dict(chunk=index, time_s=time_s, seconds=time.perf_counter() - began)
                    total = info.get("eviction_stats", {}).get("total_evictions", 0)
                    known |= dict(cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"])
                    self.rows.append(known | {"event": "eviction" if total > evictions else ""})
                    self.pictures.append(resize_to_height(frames[-1:], PICTURE_HEIGHT)[0])
                    evictions = total
                self.changed()
            self._change("running", "finished")
        except Exception as error:  # kept for whoever looks: a thread has nobody to raise it to
            self.error, self.state = error, "failed"
        self.changed()
