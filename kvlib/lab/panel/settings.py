"""What the user of the panel chooses: the settings of a stream, checked as the notebooks' parameters are, and questions."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from kvlib import EvictionConfig
from kvlib.lab.report import paths
from kvlib.lab.study.parameters import Count, NaturalNumber, PositionMode, Question, Rate, Share, Text
from kvlib.lab.study.synthetic import COLORS, MAX_AGO, PAST_QUESTION, QUESTIONS
from kvlib.policies import POLICIES, Importance
from kvlib.policies.scorers import SCORERS
from kvlib.prompts import DEFAULT_QUESTION, QUESTION_ZH

CHOICES = [name for name in POLICIES if name != "importance"] + list(SCORERS)  # "importance" is offered as its scorers
CHOOSE = "choose a question, or write one below"
READER_QUESTIONS = (
    QUESTIONS["now"][1],
    QUESTIONS["title"][0],
    QUESTIONS["card"][0].format(color="red"),
    QUESTIONS["summary"][1],
    PAST_QUESTION.format(ago=3),
)
READER_LIMITS = (
    "The embedded reader knows these five questions and no others, in English. "
    f"The card may be {', '.join(COLORS)}; the number may be 2 to {MAX_AGO}."
)
OTHER_QUESTIONS = (QUESTIONS["now"][1], QUESTIONS["title"][0], QUESTIONS["summary"][0], DEFAULT_QUESTION, QUESTION_ZH)


class PanelSettings(BaseModel):
    """What a stream is started with. Names as in the notebooks; `POLICY` is one of `CHOICES`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    MODEL_PATH: Text
    VIDEO_PATH: Text
    MAX_CACHE_TOKENS: Count
    POLICY: Text
    POSITION_MODE: PositionMode
    CHUNK_FRAMES: Count
    SAMPLE_FPS: Rate
    HEIGHT: NaturalNumber
    DROP_STATIC: Share

    def eviction(self) -> EvictionConfig:
        policy = Importance(self.POLICY) if self.POLICY in SCORERS else self.POLICY
        return EvictionConfig(self.MAX_CACHE_TOKENS, policy=policy, position_mode=self.POSITION_MODE)

    def title(self) -> str:
        """What is streamed and how, in one line."""
        height = f", {self.HEIGHT} pixels high" if self.HEIGHT else ""
        dropping = f", drop_static {self.DROP_STATIC:g}" if self.DROP_STATIC else ""
        return (
            f"{self.VIDEO_PATH}: {self.POLICY}, {self.POSITION_MODE}, budget {self.MAX_CACHE_TOKENS:,}, "
            f"{self.CHUNK_FRAMES} frames a chunk at {self.SAMPLE_FPS:g} a second{height}{dropping}"
        )


def find_problems(values: dict) -> dict[str, str]:
    """The settings that cannot be used, each with a message that names the value and the remedy. Opens no file."""
    problems = {}
    try:
        PanelSettings(**values)
    except ValidationError as error:
        for name in (found["loc"][0] for found in error.errors()):
            problems[name] = f"{name}={values[name]!r}: give {PanelSettings.model_fields[name].description}"
    for name, find in (("MODEL_PATH", paths.model_path), ("VIDEO_PATH", video_source)):
        try:
            find(values[name])
        except Exception as error:  # of the operating system too, such as a name that is too long
            problems.setdefault(name, message(error))
    return problems


def question_problem(question: str) -> str:
    """Why a question cannot be asked, or ""."""
    try:
        TypeAdapter(Question).validate_python(question)
    except ValidationError:
        return f"QUESTION={question!r}: give a text that is not blank"
    return ""


def video_source(value: str) -> str | Path:
    """What `VideoChunks` takes: a URL as it is; else the absolute path of a file, a camera or a pipe.

    Raises FileNotFoundError when the path names none of these.
    """
    if "://" in value:
        return value
    path = paths.resolve(value)
    live = bool(value) and path.exists() and not path.is_file() and not path.is_dir()
    return path if live else paths.video_path(value)


def message(error: BaseException) -> str:
    """What the panel says of an error. The messages of the first kinds are whole sentences of kvlib's own."""
    own = isinstance(error, ValueError | FileNotFoundError | PermissionError) and str(error)
    return str(error) if own else f"{type(error).__name__}: {error}"
