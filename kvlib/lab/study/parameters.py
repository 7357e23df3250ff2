"""The notebooks' parameters: their types and ranges, checked and converted before a model is loaded.

papermill and the command line turn text into Python literals, so a value may arrive in another type than the notebook needs:
the folder name 20261125 as a number, or a single number for a list.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kvlib.checkpoint import check_checkpoint
from kvlib.evictor import POSITION_MODES
from kvlib.lab.report import paths
from kvlib.lab.study.recall.tables import OLD
from kvlib.lab.study.runs import SINK_FPS
from kvlib.lab.study.synthetic import COLORS
from kvlib.lab.video.calibration import first_frames
from kvlib.lab.video.source import VideoSource
from kvlib.lab.video.subtitles import subtitles_beside


def _no_bool(value):
    if isinstance(value, bool):  # bool is a subclass of int
        raise ValueError("not a number")
    return value


def _as_text(value):
    return str(value) if isinstance(value, bool | int | float) or hasattr(value, "__fspath__") else value


def _as_list(value):
    return value if isinstance(value, list | tuple) else [value]


def _distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("a value is repeated")
    return values


def _whole(least: int) -> object:
    """The type of a whole number of at least `least`; 2.0 is accepted, 2.5 and True are not."""
    return Annotated[int, BeforeValidator(_no_bool), Field(ge=least, description=f"a whole number of at least {least}")]


NaturalNumber, Count, AtLeastTwo = _whole(0), _whole(1), _whole(2)
Text = Annotated[str, BeforeValidator(_as_text), Field(description="a text")]
Question = Annotated[Text, Field(pattern=r"\S", description="a text that is not blank")]
Rate = Annotated[
    float,
    BeforeValidator(_no_bool),
    Field(gt=0, allow_inf_nan=False, description="a positive number of frames per second"),
]
Megabytes = Annotated[
    float,
    BeforeValidator(_no_bool),
    Field(ge=0, allow_inf_nan=False, description="a number of MiB of at least 0"),
]
Counts = Annotated[
    list[Count],
    BeforeValidator(_as_list),
    AfterValidator(_distinct),
    Field(min_length=1, description="a list of different whole numbers of at least 1"),
]
Heights = Annotated[
    list[NaturalNumber],
    BeforeValidator(_as_list),
    AfterValidator(_distinct),
    Field(min_length=1, description="a list of different whole numbers of at least 0 (0 = the video's own height)"),
]
MoreCounts = Annotated[
    list[Count],
    BeforeValidator(_as_list),
    AfterValidator(_distinct),
    Field(description="a list of different whole numbers of at least 1, or []"),
]
Ages = Annotated[
    list[Count],
    BeforeValidator(_as_list),
    AfterValidator(_distinct),
    Field(
        min_length=1,
        max_length=len(COLORS),
        description=f"a list of 1 to {len(COLORS)} different whole numbers of at least 1 (each card has a colour of its own)",
    ),
]
PositionMode = Annotated[Literal[POSITION_MODES], Field(description=f"one of {', '.join(map(repr, POSITION_MODES))}")]


SHARE = "a share of full scale, from 0 (keeps all tokens) to below 1; 0.03 is a start"
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1, allow_inf_nan=False, description=SHARE)]
Shares = Annotated[
    list[Share],
    BeforeValidator(_as_list),
    AfterValidator(_distinct),
    Field(min_length=1, description=f"a list of different numbers, each {SHARE}"),
]
EvenCounts = Annotated[
    list[Annotated[AtLeastTwo, Field(multiple_of=2)]],
    BeforeValidator(_as_list),
    AfterValidator(_distinct),
    Field(min_length=1, description="a list of different even numbers of at least 2"),
]


class Parameters(BaseModel):
    """What every notebook takes. Field names are those of the notebooks' parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    MODEL_PATH: Text
    SEED: NaturalNumber
    OUTPUT_DIR: Text

    def for_report(self, **used) -> dict:
        """The parameters for a `Report`: all but the seed and the output folder, with the values `used` instead where given."""
        return self.model_dump(exclude={"SEED", "OUTPUT_DIR"}) | used


class SinkDetection(Parameters):
    """Parameters of 01_sink_detection."""

    VIDEO_PATH: Text
    MAX_CACHE_TOKENS: Count
    POSITION_MODE: PositionMode
    CHUNK_FRAMES: Counts
    HEIGHTS: Heights
    CHUNKS: AtLeastTwo
    GROUP_FRAMES: EvenCounts
    DROP_STATIC: Shares


class OomFree(Parameters):
    """Parameters of 02_oom_free."""

    VIDEO_PATH: Text
    MAX_CACHE_TOKENS: NaturalNumber
    CHUNK_FRAMES: Count
    SAMPLE_FPS: Rate
    HEIGHT: NaturalNumber
    POSITION_MODE: PositionMode
    DROP_STATIC: Share
    MEMORY_LIMIT_MB: Megabytes
    QUESTION: Question
    MAX_NEW_TOKENS: Count


class PeriodicAsk(Parameters):
    """Parameters of 03_periodic_ask."""

    VIDEO_PATH: Text
    MAX_CACHE_TOKENS: NaturalNumber
    CHUNK_FRAMES: Count
    SAMPLE_FPS: Rate
    HEIGHT: NaturalNumber
    ASK_INTERVAL: Count
    POSITION_MODE: PositionMode
    DROP_STATIC: Share
    QUESTION: Question
    MAX_NEW_TOKENS: Count


class PositionRemap(Parameters):
    """Parameters of 04_position_remap."""

    MAX_CACHE_TOKENS: AtLeastTwo  # its strategies start from half of it
    LENGTHS: Counts
    STREAMS: Count
    STRATEGY_STREAMS: Count
    SCENES: AtLeastTwo
    AGES: Ages


class PolicyComparison(Parameters):
    """Parameters of 05_policy_comparison."""

    MAX_CACHE_TOKENS: Count
    OTHER_BUDGETS: MoreCounts
    POSITION_MODE: PositionMode
    LEAST_CHUNKS: AtLeastTwo
    MOST_CHUNKS: AtLeastTwo
    AGES: Ages
    STREAMS: Count
    VIDEO_PATH: Text
    CHUNK_FRAMES: Count
    SAMPLE_FPS: Rate
    HEIGHT: NaturalNumber
    DROP_STATIC: Share
    ASK_INTERVAL: Count

    @model_validator(mode="after")
    def _fit_together(self):
        if self.MOST_CHUNKS < self.LEAST_CHUNKS:
            raise ValueError(f"MOST_CHUNKS={self.MOST_CHUNKS}: give at least LEAST_CHUNKS={self.LEAST_CHUNKS}")
        if self.MAX_CACHE_TOKENS in self.OTHER_BUDGETS:
            raise ValueError(
                f"OTHER_BUDGETS={self.OTHER_BUDGETS}: leave out MAX_CACHE_TOKENS={self.MAX_CACHE_TOKENS}, "
                "which is compared anyway"
            )
        return self


class Recall(Parameters):
    """Parameters of 06_recall."""

    MAX_CACHE_TOKENS: Count
    CHUNKS: AtLeastTwo
    AGES: Ages
    LONG_CHUNKS: AtLeastTwo
    LONG_AGES: Ages
    STREAMS: Count
    LONG_STREAMS: NaturalNumber  # 0: as many as STREAMS

    @model_validator(mode="after")
    def _fit_together(self):
        for chunks, ages in (("CHUNKS", "AGES"), ("LONG_CHUNKS", "LONG_AGES")):
            length, given = getattr(self, chunks), getattr(self, ages)
            if max(given) >= length - 1:
                raise ValueError(f"{ages}={given}: give ages below {length - 1}, for {chunks}={length}")
            if len(given) == len(COLORS):
                raise ValueError(f"{ages}={given}: give at most {len(COLORS) - 1}, so that one colour is never shown")
        if max(*self.AGES, *self.LONG_AGES) < OLD:
            raise ValueError(f"LONG_AGES={self.LONG_AGES}: give one of at least {OLD}, for the criteria")
        return self


class PublicBenchmarks(Parameters):
    """Parameters of 07_public_benchmarks."""

    TABLES: Annotated[list[Text], BeforeValidator(_as_list), Field(description="a list of .parquet files, or []")]
    MAX_CACHE_TOKENS: Count
    RECALL: Count
    CHUNK_FRAMES: Count
    CHUNKS: AtLeastTwo
    AGES: Ages
    STREAMS: Count


NOTEBOOKS = {
    "01_sink_detection": SinkDetection,
    "02_oom_free": OomFree,
    "03_periodic_ask": PeriodicAsk,
    "04_position_remap": PositionRemap,
    "05_policy_comparison": PolicyComparison,
    "06_recall": Recall,
    "07_public_benchmarks": PublicBenchmarks,
}


def check_parameters(notebook: str, **values) -> Parameters:
    """The parameters of a notebook in their right types; their names are its attributes.

    Numbers become text where text is wanted, a single number becomes a list where a list is wanted, and a float without a
    fraction becomes an int. Raises ValueError with one line for each value that cannot be used, which names the parameter, the
    value and what to give instead.
    """
    if notebook not in NOTEBOOKS:
        raise ValueError(f"notebook={notebook!r} has no parameters: choose one of {', '.join(NOTEBOOKS)}")
    try:
        return NOTEBOOKS[notebook](**values)
    except ValidationError as error:
        problems = dict.fromkeys(_message(notebook, values, found) for found in error.errors())
        raise ValueError("\n".join(f"{notebook}: {problem}" for problem in problems)) from None


def check_inputs(settings: Parameters) -> None:
    """Open the files that checked parameters name, without reading weights: the checkpoint, the video and its subtitles.

    Raises FileNotFoundError, PermissionError or ValueError for what is missing or cannot be used, and ValueError where no
    question would be asked, because the video is shorter than ASK_INTERVAL chunks.
    """
    check_checkpoint(paths.model_path(settings.MODEL_PATH))
    if not hasattr(settings, "VIDEO_PATH"):
        return
    video = paths.video_path(settings.VIDEO_PATH)
    frames = settings.CHUNK_FRAMES if isinstance(settings.CHUNK_FRAMES, int) else max(settings.CHUNK_FRAMES)
    source = VideoSource(video, frames, getattr(settings, "SAMPLE_FPS", SINK_FPS))
    first_frames(source)
    if not hasattr(settings, "ASK_INTERVAL"):
        return
    subtitles = subtitles_beside(video)
    if subtitles is not None or isinstance(settings, PeriodicAsk):  # without subtitles 05 asks nothing about the video
        source.check_interval(settings.ASK_INTERVAL)


def _message(notebook: str, values: dict, found: dict) -> str:
    fields = NOTEBOOKS[notebook].model_fields
    if not found["loc"]:  # raised by a check of several parameters together
        return str(found["ctx"]["error"])
    name = found["loc"][0]
    if found["type"] == "extra_forbidden":
        return f"{name}={values[name]!r} is not a parameter: choose from {', '.join(fields)}"
    if found["type"] == "missing":
        return f"{name} is missing: give {fields[name].description}"
    return f"{name}={values[name]!r}: give {fields[name].description}"
