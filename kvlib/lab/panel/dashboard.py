"""The panel of a running stream: choose, start, pause, stop, see memory and frames, and ask questions meanwhile."""

import base64
import io
import threading
import time
from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import pandas as pd
from PIL import Image

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.evictor import POSITION_MODES
from kvlib.lab.figures import memory_plots, style
from kvlib.lab.panel.live import KINDS, LiveStream
from kvlib.lab.report import paths
from kvlib.lab.study import runs
from kvlib.policies import POLICIES, Importance
from kvlib.policies.scorers import SCORERS

COLORS = dict(zip(KINDS, (style.ORANGE, style.GREEN, style.BLUE, "#CCCCCC"), strict=True))
DRAW_EVERY = 1.0  # seconds between two drawings while the stream runs
LAST_PICTURES = 120  # of the film strip; the sink is always among them
TABLE_STYLE = (
    "<style>.answers :is(td, th) { padding: 0.2em 1.5em 0.2em 0; text-align: left !important; line-height: 1.3 }</style>"
)
EXAMPLES = ("What text is on screen now?", "What is the title of this video?", "What did the red card say?")


class Dashboard(widgets.VBox):
    """One stream at a time, on a model that is loaded again when its path changes. Errors are shown in the panel.

    model_path, video, budget (tokens), chunk_frames, sample_fps: the first values of the fields. Nothing runs before "Start".
    Where widgets cannot be shown, such as in an exported page, `summary` is shown instead.
    """

    def __init__(self, model_path: str, video: str, budget: int, chunk_frames: int = 2, sample_fps: float = 2.0):
        wide = dict(layout={"width": "97%"}, style={"description_width": "7em"})
        clips = [paths.shown(path) for path in sorted((paths.DATA / "clips").glob("*.mp4"))]
        self.model = widgets.Text(model_path, description="model", **wide)
        self.video = widgets.Combobox(value=video, options=clips, description="video", **wide)
        self.budget = widgets.BoundedIntText(budget, min=1, max=10**9, description="budget", **narrow(14, "7em"))
        policies = [name for name in POLICIES if name != "importance"] + list(SCORERS)  # "importance" is offered as its scorers
        self.policy = widgets.Dropdown(options=policies, description="policy", **narrow(15))
        self.mode = widgets.Dropdown(options=POSITION_MODES, value="remap", description="positions", **narrow(13))
        self.frames = widgets.BoundedIntText(chunk_frames, min=1, max=1024, description="frames/chunk", **narrow(10))
        self.fps = widgets.BoundedFloatText(sample_fps, min=0.01, max=1000, description="frames/s", **narrow(8))
        self.start, self.pause, self.stop = (
            widgets.Button(description=name, icon=icon, button_style=style)
            for name, icon, style in (("Start", "play", "primary"), ("Pause", "pause", ""), ("Stop", "stop", ""))
        )
        self.progress = widgets.IntProgress(min=0, max=1, layout={"width": "30em"})
        self.said = widgets.HTML()
        self.plot = widgets.Image(format="png", layout={"width": "97%", "display": "none"})
        self.film = widgets.HTML()
        self.question = widgets.Combobox(value=EXAMPLES[0], options=EXAMPLES, description="question", **wide)
        self.ask = widgets.Button(description="Ask", icon="question", button_style="primary")
        self.answers = widgets.HTML()
        self.stream: LiveStream | None = None
        self._loaded: tuple[str, tuple] | None = None
        self._drawn, self._drawing = 0.0, threading.Lock()
        self.start.on_click(self._start)
        self.pause.on_click(self._pause)
        self.stop.on_click(self._stop)
        self.ask.on_click(self._ask)
        choices = widgets.HBox([self.budget, self.policy, self.mode, self.frames, self.fps], layout={"flex_flow": "row wrap"})
        controls = widgets.HBox([self.start, self.pause, self.stop, self.progress])
        super().__init__(
            [self.model, self.video, choices, controls, self.said, self.plot, self.film, self.question, self.ask, self.answers]
        )
        self._show()

    def summary(self) -> str:
        """The present content of the panel as HTML, for a page without a kernel: choices, plot, frames and answers."""
        fields = (self.model, self.video, self.budget, self.policy, self.mode, self.frames, self.fps)
        choices = "; ".join(f"{escape(field.description)}: {escape(str(field.value))}" for field in fields)
        picture = base64.b64encode(self.plot.value).decode()
        plot = f"<img src='data:image/png;base64,{picture}' style='max-width: 97%'>" if picture else ""
        parts = f"Panel in JupyterLab. {choices}", self.said.value, plot, self.film.value, self.answers.value
        return "".join(f"<div>{part}</div>" for part in parts if part)

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return super()._repr_mimebundle_(**kwargs) | {"text/html": self.summary()}

    def _start(self, _) -> None:
        if self.stream is not None and self.stream.state == "paused":
            self.stream.start()
            return self._show()
        try:
            self._say("loading ...")
            self.stream = None
            video = paths.video_path(self.video.value)
            self.stream = LiveStream(self._engine(), video, self.frames.value, self.fps.value, self._changed)
        except Exception as error:  # shown in the panel
            return self._fail(error)
        self.answers.value, self._drawn = "", 0.0
        self.stream.start()
        self._show()

    def _engine(self) -> VideoStreamingInference:
        path = paths.model_path(self.model.value)
        if self._loaded is None or self._loaded[0] != path:
            self._loaded = path, runs.load(path)
        model, processor = self._loaded[1]
        name = self.policy.value
        policy = Importance(name) if name in SCORERS else name
        config = EvictionConfig(self.budget.value, policy=policy, position_mode=self.mode.value)
        return VideoStreamingInference(model, processor, model.device, config)

    def _pause(self, _) -> None:
        if self.stream is not None:
            self.stream.pause()
        self._show()

    def _stop(self, _) -> None:
        if self.stream is not None:
            self.stream.stop()
        self._show()

    def _ask(self, _) -> None:
        threading.Thread(target=self._answer, args=(self.question.value,), daemon=True).start()  # the page stays alive

    def _answer(self, question: str) -> None:
        self.ask.disabled = True
        try:
            if self.stream is None:
                raise ValueError("no chunk is processed yet: press Start first")
            self.stream.ask(question)
            self.answers.value = answer_table(self.stream.answers)
        except Exception as error:
            self._fail(error)
        finally:
            self.ask.disabled = False

    def _changed(self) -> None:
        now = time.monotonic()
        if self.stream.state != "running" or now - self._drawn >= DRAW_EVERY:
            self._drawn = now
            self._show()

    def _show(self) -> None:
        stream = self.stream
        with self._drawing:
            busy = stream is not None and stream.state in ("running", "paused")
            self.start.disabled = stream is not None and stream.state == "running"
            self.pause.disabled = stream is None or stream.state != "running"
            self.stop.disabled = not busy
            if stream is None:
                return self._say("ready: Start streams the video; questions are answered between two chunks")
            self.progress.max, self.progress.value = len(stream.chunks), len(stream.rows)
            if stream.rows:
                rows = pd.DataFrame(stream.rows)
                self.plot.value = as_png(memory_plots.plot_live(rows, self.budget.value))
                self.plot.layout.display = "block"
                kinds = stream.kinds()  # before `pictures`, which may grow meanwhile
                self.film.value = film_strip(stream.pictures, kinds)
            if stream.error is not None:
                return self._fail(stream.error)
            last = stream.rows[-1] if stream.rows else {"time_s": 0.0, "cache_tokens": 0}
            self._say(
                f"{stream.state}: {len(stream.rows)} of {len(stream.chunks)} chunks, {last['time_s']:.0f} s of video, "
                f"{last['cache_tokens']:,} tokens stored"
            )

    def _say(self, text: str) -> None:
        self.said.value = f"<span>{escape(text)}</span>"

    def _fail(self, error: Exception) -> None:
        self.said.value = f"<b style='color: #b00020'>{escape(type(error).__name__)}: {escape(str(error))}</b>"


def narrow(width: int, description_width: str = "initial") -> dict:
    """Layout and style of a field that is `width` em wide."""
    return dict(layout={"width": f"{width}em"}, style={"description_width": description_width})


def film_strip(pictures: Sequence, kinds: Sequence[str]) -> str:
    """The last frame of every chunk as HTML, in a border whose colour is the chunk's kind; of many, the sink and the newest."""
    places = [i for i, kind in enumerate(kinds) if kind == "sink" or i >= len(kinds) - LAST_PICTURES]
    cells = [
        f"<img title='chunk {i}: {kinds[i]}' class='{kinds[i]}' src='data:image/jpeg;base64,{as_jpeg(pictures[i])}' "
        f"style='border: 3px solid {COLORS[kinds[i]]}; opacity: {0.45 if kinds[i] == 'evicted' else 1}; margin: 1px'>"
        for i in places
    ]
    legend = " ".join(f"<span style='border-left: 1em solid {COLORS[kind]}; padding: 0 .6em'>{kind}</span>" for kind in KINDS)
    return f"<div class='film'>{legend}<br>{''.join(cells)}</div>"


def answer_table(answers: Sequence[dict]) -> str:
    """The answers as HTML, the newest first, with a slash between lines. All texts are escaped."""
    rows = [
        {
            "at (s)": f"{row['time_s']:.1f}",
            "question": row["question"],
            "answer": row["answer"].replace("\n", " / "),
            "first token (ms)": f"{1e3 * row['ttft']:.0f}",
            "text on screen": "" if row["truth"] is None else row["truth"].replace("\n", " / ") or "(none)",
        }
        for row in reversed(answers)
    ]
    return TABLE_STYLE + pd.DataFrame(rows).to_html(index=False, border=0, classes="answers", escape=True) if rows else ""


def as_jpeg(picture) -> str:
    """A picture uint8 [H, W, 3] as base64."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def as_png(figure) -> bytes:
    """A figure at screen resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
