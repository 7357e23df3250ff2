"""What the panel shows: its fields, buttons and texts, and where they stand."""

from collections.abc import Iterable, Mapping
from html import escape

import ipywidgets as widgets
import pandas as pd

from kvlib.evictor import POSITION_MODES
from kvlib.lab.panel.film import FilmStrip
from kvlib.lab.panel.live import LiveStream
from kvlib.lab.panel.plot import live_plot
from kvlib.lab.panel.settings import CHOICES, CHOOSE, OTHER_QUESTIONS, READER_LIMITS, READER_QUESTIONS, PanelSettings
from kvlib.lab.report import paths

INDENT = "6.5em"  # of what stands below a field
NOTE = {"width": "90%", "height": "36px", "overflow": "auto", "margin": f"0 0 0 {INDENT}"}
NOTED = ("model", "video", "settings", "question")  # what has a place for an error below it
NO_STREAM = "ready: Start streams the video; questions are answered between two chunks"
LATER = "from the next start"
TABLE_STYLE = (
    "<style>.answers :is(td, th) { padding: 0.2em 1.5em 0.2em 0; text-align: left !important; line-height: 1.3 }</style>"
)


class PanelView(widgets.VBox):
    """The widgets of the panel. What grows stands in a box of fixed height, so that nothing moves.

    The methods `show_...` write only what has changed to the browser. They are meant for one thread.
    """

    def __init__(self, first: Mapping):
        wide, look = {"width": "97%"}, {"description_width": "6em"}
        clips = [paths.shown(path) for path in sorted((paths.DATA / "clips").glob("*.mp4"))]
        self.model = widgets.Text(description="model", layout=wide, style=look)
        self.video = widgets.Combobox(options=clips, description="video", layout=wide, style=look)
        self.budget = widgets.IntText(description="budget", layout={"width": "12em"}, style=look)
        self.policy = widgets.Dropdown(options=CHOICES, description="policy", **narrow(13))
        self.mode = widgets.Dropdown(options=POSITION_MODES, description="positions", **narrow(12))
        self.frames = widgets.IntText(description="frames/chunk", **narrow(10))
        self.fps = widgets.FloatText(description="frames/s", **narrow(8))
        self.height = widgets.IntText(description="height (0 = own)", **narrow(12))
        self.drop = widgets.FloatText(description="drop static", layout={"width": "12em"}, style=look)
        choices = [self.budget, self.policy, self.mode, self.frames, self.fps, self.height, self.drop]
        self.fields = dict(zip(PanelSettings.model_fields, [self.model, self.video, *choices], strict=True))
        for name, value in first.items():
            self.fields[name].value = value
        self.start, self.pause, self.stop, self.ask = (
            widgets.Button(description=name, icon=icon, button_style=style)
            for name, icon, style in (
                ("Start", "play", "primary"), ("Pause", "pause", ""), ("Stop", "stop", ""), ("Ask", "question", "primary"),
            )
        )  # fmt: skip
        self.progress = widgets.IntProgress(min=0, max=1, layout={"width": "30em"})
        self.said = widgets.HTML(layout=NOTE | {"margin": "0", "width": "97%"})
        self.offered = widgets.Dropdown(options=[CHOOSE], description="choose", layout=wide, style=look)
        self.limits = widgets.HTML(layout=NOTE)
        self.question = widgets.Text(READER_QUESTIONS[0], description="question", layout={"width": "85%"}, style=look)
        self.notes = {name: widgets.HTML(layout=NOTE) for name in NOTED}
        self.answers, self.plot, self.film = widgets.HTML(), widgets.HTML(layout=wide), FilmStrip()
        answers = widgets.Box(
            [self.answers], layout={"height": "150px", "width": "97%", "overflow": "auto", "display": "block"}
        )
        super().__init__([
            self.model, self.notes["model"], self.video, self.notes["video"],
            widgets.HBox(choices, layout={"flex_flow": "row wrap"}), self.notes["settings"],
            widgets.HBox([self.start, self.pause, self.stop, self.progress]), self.said,
            self.offered, self.limits, widgets.HBox([self.question, self.ask]), self.notes["question"],
            answers, self.plot, self.film,
        ])  # fmt: skip

    def values(self) -> dict:
        return {name: field.value for name, field in self.fields.items()}

    def show_buttons(self, state: str, asking: bool) -> None:
        """Only what can be pressed in this state of the panel is enabled."""
        self.start.disabled = state in ("loading", "running")
        self.start.description = "Continue" if state == "paused" else "Start"
        self.pause.disabled = state != "running"
        self.stop.disabled = state not in ("loading", "running", "paused")
        self.stop.description = "Cancel" if state == "loading" else "Stop"
        self.ask.disabled = asking

    def show_notes(self, errors: Mapping[str, str], used: PanelSettings | None, trouble: str | None) -> None:
        """Below each field its error, else whether its value differs from the one `used`, else the `trouble` of the video."""
        values, later = self.values(), {name: [] for name in NOTED}
        for name, value in used.model_dump().items() if used else ():
            if values[name] != value:
                later[place_of(name)].append(self.fields[name].description.partition(" (")[0])
        for place, shown in self.notes.items():
            hint = f"{', '.join(later[place])}: {LATER}" if later[place] else (place == "video" and trouble) or ""
            shown.value = note(errors.get(place, ""), hint)

    def show_questions(self, reader: bool) -> None:
        """Offer the questions that the model knows, and say so when it knows no others."""
        offered = (CHOOSE, *(READER_QUESTIONS if reader else OTHER_QUESTIONS))
        if self.offered.options != offered:
            self.offered.options = offered
        self.limits.value = f"<div style='line-height: 1.3'>{escape(READER_LIMITS if reader else '')}</div>"

    def show_stream(self, stream: LiveStream | None, used: PanelSettings) -> None:
        """Progress, plot, pictures and answers of one stream, which was started with the settings `used`."""
        rows, live = stream.rows if stream else [], stream is not None and stream.total is None
        self.progress.layout.visibility = "hidden" if live else "visible"
        self.progress.max, self.progress.value = (stream.total or 1, stream.processed) if stream else (1, 0)
        self.plot.value = live_plot(rows, used.MAX_CACHE_TOKENS, used.title()) if stream else live_plot([], 0, "no stream yet")
        kinds = stream.kinds() if stream else {}  # before `pictures`, which may grow meanwhile
        self.film.show(stream.pictures if stream else {}, kinds)
        self.answers.value = answer_table(stream.answers) if stream else ""

    def summary(self) -> str:
        """The present content of the panel as HTML, for a page without a kernel: choices, notes, plot, frames and answers."""
        choices = "; ".join(f"{escape(field.description)}: {escape(str(field.value))}" for field in self.fields.values())
        notes = [shown.value for shown in self.notes.values()]
        film = self.film.html()
        parts = [f"Panel in JupyterLab. {choices}", *notes, self.said.value]
        parts += [self.plot.value, film, self.answers.value] if film else []
        return "".join(f"<div>{part}</div>" for part in parts if part)

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return super()._repr_mimebundle_(**kwargs) | {"text/html": self.summary()}


def narrow(width: int) -> dict:
    """Layout and style of a field that is `width` em wide with its label."""
    return dict(layout={"width": f"{width}em"}, style={"description_width": "initial"})


def place_of(setting: str) -> str:
    """Where an error of a setting is shown: one of `NOTED`."""
    return {"MODEL_PATH": "model", "VIDEO_PATH": "video"}.get(setting, "settings")


def progress_text(stream: LiveStream) -> str:
    """State, chunks, seconds and tokens, stored and dropped, of a stream, in one line."""
    last = stream.rows[-1] if stream.rows else {"time_s": 0.0, "cache_tokens": 0, "tokens_dropped": 0}
    total = "" if stream.total is None else f" of {stream.total}"
    return (
        f"{stream.state}: {stream.processed}{total} chunks, {last['time_s']:.0f} s of video, "
        f"{last['cache_tokens']:,} tokens stored, {last['tokens_dropped']:,} dropped"
    )


def answer_table(answers: Iterable[dict]) -> str:
    """The answers as HTML, the newest first, with a slash between lines. All texts are escaped."""
    rows = [
        {
            "at (s)": f"{row['time_s']:.1f}",
            "question": row["question"],
            "answer": row["answer"].replace("\n", " / "),
            "first token (ms)": f"{1e3 * row['ttft']:.0f}",
            "text on screen": "" if row["truth"] is None else row["truth"].replace("\n", " / ") or "(none)",
        }
        for row in reversed(list(answers))
    ]
    with pd.option_context("display.max_colwidth", None):
        table = pd.DataFrame(rows).to_html(index=False, border=0, classes="answers", escape=True)
    return TABLE_STYLE + table if rows else ""


def note(error: str, hint: str = "") -> str:
    """An error in red, or else a hint, as HTML; both are escaped. "" for neither."""
    look = "color: #b00020; font-weight: bold" if error else "color: #9a6700"
    text = escape(error or hint).replace("\n", "<br>")
    return text and f"<div style='{look}; line-height: 1.3; overflow-wrap: anywhere'>{text}</div>"
