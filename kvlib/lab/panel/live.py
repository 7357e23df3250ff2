"""A stream in a thread of its own: started, paused and stopped from outside, and asked questions in between."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from kvlib.lab.panel.reader import ChunkReader
from kvlib.lab.panel.record import LAST_PICTURES, add_row, grids_jpeg, small_jpeg
from kvlib.lab.study.scoring import exact_match
from kvlib.lab.video.source import resize_to_height
from kvlib.lab.video.subtitles import subtitles_beside, truth_at
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunk, VideoChunks

KINDS = ("sink", "history", "window", "evicted")
MAX_ANSWERS = 200
LOOK_AGAIN = 1.0  # seconds: an interrupt can come between a change and its notice
CHANGES = {  # call -> state before -> state after; in any other state the call changes nothing
    "start": {"ready": "running", "paused": "running"},
    "pause": {"running": "paused"},
    "stop": {"ready": "stopped", "running": "stopped", "paused": "stopped"},
    "finish": {"running": "finished", "paused": "finished"},
}


@dataclass
class Question:
    """A question that waits. `reply` gets the pair of its row and None, or of None and what `ask` raised."""

    text: str
    max_new_tokens: int
    reply: SimpleQueue = field(default_factory=SimpleQueue)
    withdrawn: bool = False


class LiveStream:
    """Streams a video into an engine. A question waits for the chunk that is being processed, and the next chunk waits for the
    question.

    engine: one without any chunk yet. video: a path or a URL, or `VideoChunks` that are already open; an .srt of the same name
    beside a file is the ground truth. changed: called from the stream's thread after every chunk, and when the stream has
    ended. height: frames are made smaller to this height in pixels; 0 = as they are.

    `state` is ready, running, paused, and at the end finished, stopped or failed. `processed` counts chunks and `total` is
    their number, None for a live source. `rows` has chunk, time_s, cache_tokens, tokens_dropped (so far), cache_bytes, seconds
    and event ("eviction" or "") for every chunk, or for several in a long stream. `pictures` has, by chunk number, the last
    frame of the sink's and the newest chunks, or of their temporal grids where the engine drops tokens, as JPEG in base64.
    `answers` has a row for each of the newest questions. `error` is what ended the stream, or None, and `error_from` is "video"
    or "engine". Raises what `VideoChunks` and `read_srt` raise.

    One thread uses the engine, for chunks and for questions. The caller's thread, to which ctrl-C comes, only puts requests
    into queues and holds no lock of which an interrupt could rob the stream. All methods may be called from any thread.
    """

    def __init__(
        self,
        engine: VideoStreamingInference,
        video: str | Path | VideoChunks,
        chunk_frames: int = 2,
        sample_fps: float = 2.0,
        changed: Callable[[], None] = lambda: None,
        height: int = 0,
    ):
        self.engine, self.changed, self.height = engine, changed, height
        self.chunks = video if isinstance(video, VideoChunks) else VideoChunks(video, chunk_frames, sample_fps)
        self.total = None if self.chunks.live else len(self.chunks)
        self.subtitles = subtitles_beside(self.chunks.path)
        self.state, self.processed = "ready", 0
        self.rows: list[dict] = []
        self.pictures: dict[int, str] = {}
        self.answers: deque[dict] = deque(maxlen=MAX_ANSWERS)
        self.error: Exception | None = None
        self.error_from = ""
        self._evictions = 0
        self._lock = threading.Lock()  # of `state` and `_working`
        self._questions: deque[Question] = deque()
        self._notices: SimpleQueue = SimpleQueue()
        self._reader = ChunkReader(self.chunks, lambda notices=self._notices: notices.put(None))
        self._working = self._ended = False

    @property
    def trouble(self) -> str | None:
        """Why the video ended early, such as that the file is damaged from some second on; None for no reason. Errors are in
        `error`."""
        return self.chunks.trouble

    @property
    def questions_waiting(self) -> int:
        return len(self._questions)

    def start(self) -> None:
        """Begin, or continue after a pause."""
        self._change("start")

    def pause(self) -> None:
        """Process no further chunk after the current one, until `start`."""
        self._change("pause")

    def stop(self) -> None:
        """Process no further chunk after the current one. Returns at once; questions are still answered."""
        self._change("stop")

    def wait(self, seconds: float = float("inf")) -> None:
        """Return when a stream that was started has ended, with its last chunk processed, or after so many seconds."""
        end = time.monotonic() + seconds
        while self.state != "ready" and not self._ended and time.monotonic() < end:
            time.sleep(0.01)  # an interrupt in the lock of an Event could leave it locked for ever

    def ask(self, question: str, max_new_tokens: int = 60) -> dict:
        """Ask, greedily, between two chunks: a row [time_s, question, answer, ttft, truth, correct], also kept in `answers`.

        truth and correct are of the text on screen, None without subtitles. Raises what `VideoStreamingInference.ask` raises.
        An interrupt ends the wait, and the question is not asked, or its answer only kept in `answers`.
        """
        asked = Question(question, max_new_tokens)
        try:
            self._questions.append(asked)
            self._notify()
            row, error = asked.reply.get()
        except BaseException:
            asked.withdrawn = True
            raise
        if error is not None:
            raise error
        return row

    def kinds(self) -> dict[int, str]:
        """For the chunk of every picture one of `KINDS`; the window is the newest chunks that are stored without a gap."""
        pictures, manager = list(self.pictures), self.engine.cache_manager
        state = manager.state  # one moment's, and never changed
        alive = {chunk.index for chunk in state.chunks}
        sink = manager.evictor.sink_chunks if manager.evictor else 0
        window = state.chunks_seen
        while window - 1 in alive:
            window -= 1

        def kind(index: int) -> str:
            return "evicted" if index not in alive else "sink" if index < sink else "window" if index >= window else "history"

        return {index: kind(index) for index in pictures}

    def _change(self, call: str) -> None:
        with self._lock:
            self.state = CHANGES[call].get(self.state, self.state)
        self._notify()

    def _notify(self) -> None:
        """Wake the thread, or begin one where none is at work."""
        self._notices.put(None)
        if not self._working:
            threading.Thread(target=self._work, daemon=True, name="kvlib-stream").start()

    def _work(self) -> None:
        """Answer questions and process chunks until there is nothing to do: a stream that has ended needs no thread."""
        with self._lock:
            if self._working:  # a second thread was begun meanwhile
                return
            self._working = True
        while True:
            if self._questions:
                self._answer(self._questions.popleft())
                continue
            with self._lock:
                state = self.state
                if state not in ("running", "paused") and not self._questions:
                    self._working = False
                    break
            self._go_on(state)
        if state != "ready" and not self._ended:
            self._reader.close()
            self._ended = True
            self.changed()

    def _go_on(self, state: str) -> None:
        """Process the chunk that waits, or end with the video, or wait for either."""
        reader = self._reader
        try:
            reader.start()
            if state == "running" and reader.waiting is not None:
                self._process(reader.take())
                self.changed()
            elif reader.ended:  # also while paused: there is nothing to continue with
                self._finish(reader.error)
            else:
                self._wait()
        except Exception as error:  # kept: a thread has no caller to raise it to
            self._fail(error, "engine")

    def _finish(self, error: Exception | None) -> None:
        if error is not None:
            self._fail(error, "video")
        with self._lock:
            self.state = CHANGES["finish"].get(self.state, self.state)

    def _fail(self, error: Exception, source: str) -> None:
        with self._lock:  # without its traceback, whose frames hold the tensors that filled the memory when memory ended
            self.error, self.error_from, self.state = error.with_traceback(None), source, "failed"

    def _wait(self) -> None:
        try:
            self._notices.get(timeout=LOOK_AGAIN)
            while True:
                self._notices.get_nowait()
        except Empty:
            pass

    def _process(self, chunk: VideoChunk) -> None:
        if 0 < self.height < chunk.frames.shape[1]:
            chunk = replace(chunk, frames=resize_to_height(chunk.frames, self.height))
        began = time.perf_counter()
        encoded = self.engine.encode(chunk.frames, chunk.fps)
        info = self.engine.append_encoded(encoded, chunk.time_s)
        row = dict(chunk=self.processed, time_s=chunk.time_s, seconds=time.perf_counter() - began)
        evictions = info.get("eviction_stats", {}).get("total_evictions", 0)
        row |= dict(cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"])
        row["tokens_dropped"] = info["tokens_dropped"]
        self.rows = add_row(self.rows, row | {"event": "eviction" if evictions > self._evictions else ""})
        self._evictions = evictions
        dropping = self.engine.drop_static > 0
        shown = grids_jpeg(chunk.frames, encoded.kept.numpy()) if dropping else small_jpeg(chunk.frames[-1])
        self.pictures[self.processed] = shown
        old, manager = self.processed - LAST_PICTURES, self.engine.cache_manager
        if not manager.evictor or old >= manager.evictor.sink_chunks:
            self.pictures.pop(old, None)
        self.processed += 1

    def _answer(self, asked: Question) -> None:
        if asked.withdrawn:
            return
        try:
            answer, metrics = self.engine.ask(asked.text, max_new_tokens=asked.max_new_tokens, do_sample=False)
            time_s = self.rows[-1]["time_s"]
            truth = None if self.subtitles is None else truth_at(self.subtitles, time_s)
            correct = None if truth is None else exact_match(answer, truth)
            row = dict(time_s=time_s, question=asked.text, answer=answer, ttft=metrics["ttft"], truth=truth, correct=correct)
            self.answers.append(row)
            asked.reply.put((row, None))
        except BaseException as error:  # raised in the thread that asked
            asked.reply.put((None, error))
