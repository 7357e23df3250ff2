"""The panel of a running stream: choose, start, pause, stop, see memory and frames, and ask questions meanwhile."""

import threading
import weakref
from functools import partial
from html import escape

import torch

from kvlib import VideoStreamingInference
from kvlib.lab.panel.live import LiveStream
from kvlib.lab.panel.loading import Cancelled, Loading
from kvlib.lab.panel.redraw import Redraw
from kvlib.lab.panel.settings import (
    CHOOSE,
    PanelSettings,
    find_problems,
    message,
    question_problem,
    video_source,
)  # fmt: skip
from kvlib.lab.panel.view import NO_STREAM, PanelView, note, place_of, progress_text
from kvlib.lab.report import paths
from kvlib.lab.video.subtitles import subtitles_beside
from kvlib.video import VideoChunks

OUT_OF_MEMORY = "memory ended ({}): lower the budget, the height or the frames per chunk"


class Dashboard(PanelView):
    """One stream at a time, on a model that is loaded again when its path changes. An error stands beside what caused it.

    model_path, video (a file, a URL or a camera), budget (tokens), chunk_frames, sample_fps, height (pixels, 0 = the video's
    own), drop_static (a share of full scale, 0 = keep all tokens): the first values of the fields. Nothing runs before "Start".
    A new panel stops the streams of older ones, whose buttons may be gone because their cell was run again. Where widgets
    cannot be shown, such as in an exported page, `summary` is shown.

    `state` is loading, or that of the stream, or ready when there is none. The buttons' handlers run in the kernel's main
    thread, one after the other. Opening, loading and questions have threads of their own, and one thread writes to the widgets.
    """

    _panels: weakref.WeakSet = weakref.WeakSet()

    def __init__(
        self,
        model_path: str,
        video: str,
        budget: int,
        chunk_frames: int = 2,
        sample_fps: float = 2.0,
        height: int = 0,
        drop_static: float = 0.0,
    ):
        super().__init__(
            dict(
                MODEL_PATH=str(model_path), VIDEO_PATH=str(video), MAX_CACHE_TOKENS=budget, POSITION_MODE="remap",
                CHUNK_FRAMES=chunk_frames, SAMPLE_FPS=sample_fps, HEIGHT=height, DROP_STATIC=drop_static,
            )
        )  # fmt: skip
        self._run: tuple[LiveStream, PanelSettings] | None = None
        self._job: tuple[Loading, PanelSettings] | None = None
        self._loaded: tuple[str, tuple] | None = None
        self._errors: dict[str, str] = {}  # by place: one of NOTED, or "start"
        self._lock = threading.Lock()  # of the changes between states
        self._asking = threading.Lock()  # held while a question waits or is answered
        self._check_fields()
        self._show()
        self._redraw = Redraw(self._show, lambda: self.state in ("loading", "running"))
        buttons = (self.start, self._start), (self.pause, self._pause), (self.stop, self._stop), (self.ask, self._ask)
        for button, handler in buttons:
            button.on_click(handler)
        for name, field in self.fields.items():
            field.observe(partial(self._edited, place_of(name)), "value")
        self.question.observe(partial(self._edited, "question"), "value")
        self.offered.observe(self._choose, "value")
        for older in list(self._panels):
            older.stop_all()
        self._panels.add(self)

    @property
    def stream(self) -> LiveStream | None:
        """The stream that is shown, which may have ended."""
        run = self._run
        return run and run[0]

    @property
    def state(self) -> str:
        stream = self.stream
        return "loading" if self._job else stream.state if stream else "ready"

    def stop_all(self) -> None:
        """Stop the stream, or cancel what is loading."""
        with self._lock:
            job, self._job = self._job, None
            if job is not None:
                job[0].cancel()
            elif self._run is not None:
                self._run[0].stop()
        self._redraw.now()

    def close(self) -> None:
        """Stop the stream and take the panel from the page."""
        self.stop_all()
        self._redraw.close()
        super().close()

    def _check_fields(self, *places: str) -> None:
        """Put what is wrong with the fields of these places, or of all, beside them, and take away what is wrong no more."""
        found = find_problems(self.values())
        for place in places or ("model", "video", "settings"):
            problems = [problem for name, problem in found.items() if place_of(name) == place]
            self._set_error(place, "\n".join(problems))

    def _set_error(self, place: str, text: str) -> None:
        if text:
            self._errors[place] = text
        else:
            self._errors.pop(place, None)

    def _edited(self, place: str, _) -> None:
        if place == "question":
            self._set_error(place, "")
        else:
            self._check_fields(place)
        self._redraw.now()

    def _choose(self, change) -> None:
        if change["new"] not in (None, CHOOSE):
            self.question.value = change["new"]

    def _start(self, _) -> None:
        with self._lock:
            if self.state == "paused":
                self._run[0].start()
            elif self.state not in ("loading", "running"):
                self._check_fields()
                self._set_error("start", "")
                if not self._errors.keys() & {"model", "video", "settings"}:
                    self._job = Loading(), PanelSettings(**self.values())
                    threading.Thread(target=self._begin, args=(self._job,), daemon=True).start()
        self._redraw.now()

    def _pause(self, _) -> None:
        if self.stream is not None:
            self.stream.pause()
        self._redraw.now()

    def _stop(self, _) -> None:
        self.stop_all()

    def _ask(self, _) -> None:
        threading.Thread(target=self._answer, args=(self.question.value,), daemon=True).start()

    def _begin(self, job: tuple[Loading, PanelSettings]) -> None:
        """Open the video, load the model and start the stream, unless it is cancelled meanwhile."""
        loading, settings = job
        place, text, run = "video", "", None
        try:
            loading.enter(f"opening {settings.VIDEO_PATH}")
            chunks = VideoChunks(video_source(settings.VIDEO_PATH), settings.CHUNK_FRAMES, settings.SAMPLE_FPS)
            subtitles_beside(chunks.path)  # a damaged .srt is noticed before the model is loaded
            place = "model"
            model, processor = self._load(job, paths.model_path(settings.MODEL_PATH))
            place = "settings"
            given = model, processor, model.device, settings.eviction()
            engine = VideoStreamingInference(*given, drop_static=settings.DROP_STATIC)
            run = LiveStream(engine, chunks, changed=self._stream_changed, height=settings.HEIGHT), settings
        except Cancelled:
            return
        except Exception as error:  # shown beside the field
            text = message(error)
        with self._lock:
            if self._job is job:
                self._job = None
                if run is None:
                    self._set_error(place, text)
                else:
                    self._errors.clear()
                    self._run = run
                    run[0].start()
        self._redraw.now()

    def _load(self, job: tuple[Loading, PanelSettings], path: str):
        """Model and processor: those of before if the path is the same, else new ones, for which the old ones are dropped."""
        loaded = self._loaded
        if loaded is None or loaded[0] != path:
            job[0].check(path)
            with self._lock:
                job[0].enter("")
                self._loaded = self._run = None  # both hold the old model
            loaded = path, job[0].load(path)
            with self._lock:
                job[0].enter("starting")
                self._loaded = loaded
        return loaded[1]

    def _answer(self, question: str) -> None:
        if not self._asking.acquire(blocking=False):
            return  # the button was pressed twice
        try:
            self._redraw.now()
            stream, problem = self.stream, question_problem(question)
            if problem or stream is None or not stream.processed:
                raise ValueError(problem or "no chunk is processed yet: press Start first, or wait for the first chunk")
            stream.ask(question)
            self._set_error("question", "")
        except Exception as error:  # shown beside the question
            self._set_error("question", message(error))
        finally:
            self._asking.release()
            self._redraw.now()

    def _stream_changed(self) -> None:
        """Called by the stream after each chunk and at its end. While it runs it is drawn from time to time anyway."""
        stream = self.stream
        if stream is not None and stream.state != "running":
            if stream.error is not None:
                self._set_error(*_place_of_failure(stream))
            self._redraw.now()

    def _show(self) -> None:
        run, job, state = self._run, self._job, self.state
        stream, used = run or (None, None)
        said = f"loading: {job[0].progress()}" if job else progress_text(stream) if stream else NO_STREAM
        error = self._errors.get("start", "")
        self.show_buttons(state, self._asking.locked())
        changing = job[1] if job else used if state in ("running", "paused") else None
        self.show_notes(self._errors, changing, stream.trouble if stream else None)
        self.show_questions(paths.is_reader(self.model.value))
        self.show_stream(stream, used)
        self.said.value = f"<div style='line-height: 1.3'>{escape(said)}{note(error) if error else ''}</div>"


def _place_of_failure(stream: LiveStream) -> tuple[str, str]:
    """Where to show what ended a stream, and the text."""
    error = stream.error
    if stream.error_from == "video":
        return "video", message(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "settings", OUT_OF_MEMORY.format(error)
    return "settings" if isinstance(error, ValueError) else "start", message(error)
