"""How a benchmark is run: what stands beside every number."""

from dataclasses import asdict, dataclass
from pathlib import Path

from kvlib.encoding import check_drop_static
from kvlib.evictor import EvictionConfig
from kvlib.families import family_of
from kvlib.lab.report.provenance import device_name, git_state, versions
from kvlib.lab.video.calibration import Forecast, chunk_tokens, first_frames, grid_of_size
from kvlib.lab.video.source import VideoSource
from kvlib.stream import VideoStreamingInference

MAX_NEW_TOKENS = 64  # of an answer
MEMORY = "memory"  # where evicted chunks are kept for recall
FREE, OFFICIAL = "free, nearest option", "official"


@dataclass(frozen=True)
class Protocol:
    """The settings of a run.

    model: the checkpoint's folder. budget: tokens. policy, positions: as `EvictionConfig` takes them. recall: as
    `VideoStreamingInference.ask` takes it, 0 for none. height: of the frames in pixels, 0 = the video's own. chunk_frames:
    frames a chunk, sampled at `fps` a second. free_answers: ask without the benchmark's instructions, and take the option that
    is nearest to the answer in edit distance; for a model that was trained to answer in its own words only. max_new_tokens: of
    an answer.

    Raises ValueError for values that cannot be used.
    """

    model: str
    budget: int
    policy: str = "sink_window"
    positions: str = "remap"
    recall: int | str = 0
    drop_static: float = 0.0
    fps: float = 2.0
    height: int = 0
    chunk_frames: int = 2
    free_answers: bool = False
    max_new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self):
        self.config()
        check_drop_static(self.drop_static)
        whole = isinstance(self.recall, int) and not isinstance(self.recall, bool) and self.recall >= 0
        if not whole and self.recall != "auto":
            raise ValueError(f"recall={self.recall!r}: give a number of chunks, 0 for none, or 'auto'")

    def config(self) -> EvictionConfig:
        """What the engine evicts."""
        return EvictionConfig(self.budget, policy=self.policy, position_mode=self.positions)

    def engine(self, model, processor) -> VideoStreamingInference:
        """A new stream."""
        archive = MEMORY if self.recall else None
        return VideoStreamingInference(
            model, processor, model.device, self.config(), archive=archive, drop_static=self.drop_static
        )

    def source(self, video: Path) -> VideoSource:
        """The chunks of a video."""
        return VideoSource(video, self.chunk_frames, self.fps, self.height)

    def misfit(self, config, processor, video: Path) -> str:
        """What is wrong where chunks of this video do not fit into the budget, or into the part of it that is for recall; ""
        for nothing. config: the model's. Reads the first chunk; raises what `VideoChunks` raises."""
        size, _ = first_frames(self.source(video))
        _, later, first = chunk_tokens(config, processor, size)
        room = self.budget // 4 if self.recall else 0
        if first + later <= self.budget - room and (not self.recall or later <= room):
            return ""
        needed = max(first + later + (first + later) // 3 + 1, 4 * later) if self.recall else first + later
        recall = ", and a quarter of the budget is for recall" if self.recall else ""
        return (
            f"budget={self.budget}: the first chunk of {video.name} takes {first:,} tokens, a later one {later:,}{recall}: "
            f"give at least {needed:,}, fewer frames a chunk, or a smaller height"
        )

    def settings(self) -> dict:
        """The columns of the table that do not depend on a video."""
        settings = asdict(self)
        answers = FREE if settings.pop("free_answers") else OFFICIAL
        return settings | {"answers": answers, "context": "all"}

    def describe(self, model, processor, video: Path, name: str) -> dict:
        """The columns of the protocol for one video, in plain JSON types. name: the benchmark's."""
        size, _ = first_frames(self.source(video))
        _, height, width = grid_of_size(model.config, processor.image_processor, size)
        patch = processor.image_processor.patch_size
        return self.settings() | {
            "benchmark": name,
            "family": family_of(model.config).name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": device_name(model.device),
            "pixels": f"{width * patch}x{height * patch}",
            "commit": git_state()["commit"],
            "torch": versions()["torch"],
            "transformers": versions()["transformers"],
        }


def estimate_text(forecast: Forecast, video_s: float, questions: int, workers: int) -> str:
    """How long a run will take at most, in words, from one measured chunk at a full budget. video_s: seconds of video that are
    streamed; every question is counted as a chunk of its own."""
    chunks = round(video_s / forecast.video_s)
    hours = (chunks + questions) * forecast.seconds / 3600 / workers
    took = f"{60 * hours:.1f} min" if hours < 2 else f"{hours:.1f} h"
    return (
        f"{video_s / 3600:.2f} h of video: {chunks:,} chunks of {forecast.tokens:,} tokens and {questions:,} questions, at "
        f"{forecast.seconds:.2g} s for a chunk with a full cache and {workers} at a time: about {took} (without decoding the "
        "videos)"
    )
