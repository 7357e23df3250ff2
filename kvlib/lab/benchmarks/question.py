"""What a benchmark asks, and what its loader returns."""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

NO_FILE = "no such video file"


@dataclass(frozen=True)
class Question:
    """One question of a benchmark, or one query of an item that is asked several times.

    id, mode, task, video: as the benchmark names them. times: when it is asked, in seconds of the video; at several times
    only until an answer has the word "yes", and then `then` is asked at the same time. prompt: the text for the model. truth:
    what the scorer compares the answer with. options: the answers to choose from, without their letters. plain: the question
    without instructions, for a model that answers freely. due_s: when the answer is due. problem: why it cannot be asked, "".
    """

    id: str
    mode: str
    task: str
    video: str
    times: tuple[float, ...]
    prompt: str
    truth: str
    options: tuple[str, ...] = ()
    plain: str = ""
    then: str = ""
    due_s: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Loaded:
    """A benchmark's questions, the folder of its videos, and where they come from: the files of the questions and of the
    prompts, each with its SHA-256."""

    questions: tuple[Question, ...]
    videos: dict[str, Path | None]
    data_files: dict[str, str]
    prompt_files: dict[str, str]

    def chosen(self, modes: list[str]) -> "Loaded":
        """Only the questions of these `modes`, in the benchmark's order; all for none. Raises ValueError for unknown ones."""
        known = list(dict.fromkeys(question.mode for question in self.questions))
        if unknown := [mode for mode in modes if mode not in known]:
            raise ValueError(f"mode {unknown[0]!r} has no question: choose from {', '.join(known)}")
        kept = tuple(question for question in self.questions if not modes or question.mode in modes)
        videos = {question.video: self.videos[question.video] for question in kept}
        return Loaded(kept, videos, self.data_files, self.prompt_files)

    def by_video(self) -> dict[str, list[Question]]:
        """The questions that can be asked, by the video."""
        found: dict[str, list[Question]] = {}
        for question in self.questions:
            if not question.problem and self.videos[question.video] is not None:
                found.setdefault(question.video, []).append(question)
        return found


def benchmark_names() -> list[str]:
    """The benchmarks there are, by name."""
    import kvlib.lab.benchmarks as package

    return sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.ispkg)


def part_of(name: str, part: str) -> ModuleType:
    """The module "loader" or "scorer" of a benchmark. Raises ValueError for an unknown benchmark."""
    if name not in benchmark_names():
        raise ValueError(f"no benchmark {name!r}: choose from {', '.join(benchmark_names())}")
    return importlib.import_module(f"kvlib.lab.benchmarks.{name}.{part}")
