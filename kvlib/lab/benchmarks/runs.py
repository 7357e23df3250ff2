"""All videos of a benchmark on Dask workers, one file of answers for each, so that a run that was stopped goes on.

In the folder of the results, `videos/` has a file for each video that is finished, and `run.json` says how the answers were
made: a folder takes those of one protocol only. A video that is being streamed when the run ends is streamed again.
"""

import json
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from distributed import Client, as_completed
from tqdm import tqdm

from kvlib.lab.benchmarks.protocol import Protocol, estimate_text
from kvlib.lab.benchmarks.question import NO_FILE, Loaded, Question
from kvlib.lab.benchmarks.streaming import FAILED, MISSING, NOT_ASKED, REFUSED, UNREADABLE, answer_alone, answer_video, unasked
from kvlib.lab.report.files import as_json, newest_change, write_atomic
from kvlib.lab.study.runs import each_stream, load
from kvlib.lab.sweep.grid import value_name
from kvlib.lab.sweep.slurm import SlurmConfig
from kvlib.lab.sweep.sweep import alone_in
from kvlib.lab.sweep.workers import connected
from kvlib.lab.video.calibration import Forecast, first_frames, forecast

SETTINGS, VIDEOS = "run.json", "videos"
TEXTS = (
    "benchmark", "mode", "task", "id", "video", "status", "problem", "truth", "answer", "counted", "model", "family", "dtype",
    "device", "pixels", "policy", "positions", "recall", "answers", "context", "prompt_source", "prompt_sha256", "data_sha256",
    "commit", "torch", "transformers",
)  # fmt: skip
NUMBERS = ("time_s", "seen_s", "due_s", "seconds", "ttft", "drop_static", "fps")
WHOLE_NUMBERS = (
    "tokens_stored", "tokens_seen", "tokens_dropped", "evictions", "recalled", "prompt_tokens", "budget", "height",
    "chunk_frames", "max_new_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """The benchmark `name` with its questions, how it is run, and the folder of its results. scheduler, slurm: where its
    workers are, as of `kvlib.lab.sweep.workers.connected`."""

    name: str
    loaded: Loaded
    protocol: Protocol
    out: Path
    scheduler: str | None = None
    slurm: SlurmConfig | None = None

    def file(self, video: str) -> Path:
        """Where the answers about a video go."""
        return self.out / VIDEOS / f"{value_name(video)}.json"

    def settings(self) -> dict:
        """What answers depend on."""
        settings = asdict(self.protocol) | {"benchmark": self.name, "model's time": newest_change(self.protocol.model)}
        return settings | {"questions": self.loaded.data_files, "prompts": self.loaded.prompt_files}


def answer_all(run: Run) -> pd.DataFrame:
    """Ask all questions of a run that have no answer yet, and return the table of all: a row per question, see `answer_video`,
    with the columns of the protocol; `status` and `problem` say why a question has no answer.

    A video that fails is shown and does not stop the others. Raises ValueError, before any video is streamed, for a folder
    with answers of another protocol and for a budget into which no chunk fits; SweepError as `connected` and `alone_in` do.
    """
    with alone_in(run.out):
        _check_settings(run)
        asked = run.loaded.by_video()
        rows = {video: read_answers(run.file(video), questions) for video, questions in asked.items()}
        todo = {video: questions for video, questions in asked.items() if rows[video] is None}
        if len(todo) < len(asked):
            print(f"{len(asked) - len(todo)} of {len(asked)} videos are finished and kept")
        if todo:
            with connected(run.scheduler, run.slurm, len(todo)) as client:
                rows |= _answer_on_workers(client, run, todo)
    return table_of(run, {video: found for video, found in rows.items() if found is not None})


def answer_here(run: Run, model, processor) -> pd.DataFrame:
    """As `answer_all`, in this process and without files, with a model that is loaded; on a CPU a video on each core."""
    asked = list(run.loaded.by_video().items())

    def answer(number: int) -> list[dict]:
        video, questions = asked[number]
        return _answers(model, processor, run.loaded.videos[video], questions, run.protocol, run.name)

    found = each_stream(answer, len(asked), model)
    return table_of(run, {video: rows for (video, _), rows in zip(asked, found, strict=True)})


def compare_alone(run: Run, model, processor, table: pd.DataFrame, questions: list[Question]) -> pd.DataFrame:
    """Whether the answers in the `table` of a run are those of new streams that are fed each question's prefix alone: a row per
    question, `id`, `time_s`, `streamed` once, `alone`, `same`."""
    streamed, rows = table.set_index("id")["answer"], []
    for question in questions:
        source = run.protocol.source(run.loaded.videos[question.video])
        alone = answer_alone(run.protocol.engine(model, processor), source, question, run.protocol)
        rows.append(dict(id=question.id, time_s=alone["time_s"], streamed=streamed[question.id], alone=alone["answer"]))
    compared = pd.DataFrame(rows)
    return compared.assign(same=compared["streamed"] == compared["alone"])


def table_of(run: Run, rows: dict[str, list[dict]]) -> pd.DataFrame:
    """A row for every question of the run, in the benchmark's order; `rows` has those of each video that was streamed.

    Columns: `TEXTS`, `NUMBERS` (seconds, unless their names say otherwise) and `WHOLE_NUMBERS`, missing where there is none.
    """
    found = {row["id"]: row for answered in rows.values() for row in answered}
    made = [found.get(question.id) or _without_answer(run, question) for question in run.loaded.questions]
    files = {"prompt_source": ", ".join(run.loaded.prompt_files), "prompt_sha256": " ".join(run.loaded.prompt_files.values())}
    files["data_sha256"] = " ".join(run.loaded.data_files.values())
    settings = run.protocol.settings() | {"benchmark": run.name}
    table = pd.DataFrame([settings | row | files for row in made], columns=[*TEXTS, *NUMBERS, *WHOLE_NUMBERS])
    table["recall"] = table["recall"].astype(str)
    kinds = dict.fromkeys(TEXTS, "str") | dict.fromkeys(NUMBERS, "float64") | dict.fromkeys(WHOLE_NUMBERS, "Int64")
    return table.astype(kinds)


def read_answers(file: Path, questions: list[Question]) -> list[dict] | None:
    """The stored rows of these questions about one video; None where one of them is not there, or none can be read."""
    try:
        stored = {row["id"]: row for row in json.loads(file.read_text())}
        return [stored[question.id] for question in questions]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def answer_on_worker(video: Path, questions: list[Question], protocol: Protocol, name: str, file: Path) -> list[dict]:
    """On a worker: stream one video and return the rows of its questions. They are stored in `file`, unless the video could not
    be read to its end: it may be there when the run is done again."""
    rows = as_json(_answers(*loaded_once(protocol.model), video, questions, protocol, name))
    if not any(row["status"] in (MISSING, UNREADABLE) for row in rows):
        write_atomic(file, json.dumps(rows))
    return rows


def measure_chunk(video: Path, protocol: Protocol) -> Forecast:
    """On a worker: what a chunk of this video takes there, with a full cache. Raises ValueError for one that does not fit."""
    model, processor = loaded_once(protocol.model)
    if problem := protocol.misfit(model.config, processor, video):
        raise ValueError(problem)
    return forecast(model.config, processor, *first_frames(protocol.source(video)), protocol.budget, model.device)


@lru_cache(maxsize=1)
def loaded_once(path: str):
    """Model and processor, which a worker keeps from one video to the next."""
    return load(path)


def _answers(model, processor, video: Path, questions: list[Question], protocol: Protocol, name: str) -> list[dict]:
    same: dict = {}
    try:
        same = protocol.describe(model, processor, video, name)
        if problem := protocol.misfit(model.config, processor, video):
            return [same | unasked(question, REFUSED, problem) for question in questions]
        rows = answer_video(protocol.engine(model, processor), protocol.source(video), questions, protocol)
        return [same | row for row in rows]
    except FileNotFoundError:
        return [unasked(question, MISSING, NO_FILE) for question in questions]
    except (OSError, ValueError) as error:
        return [same | unasked(question, UNREADABLE, str(error)) for question in questions]


def _answer_on_workers(client: Client, run: Run, todo: dict[str, list[Question]]) -> dict[str, list[dict]]:
    lengths = {video: max(max(question.times) for question in questions) for video, questions in todo.items()}
    _print_estimate(client, run, todo, lengths)
    rows = {}
    with _cancelled_at_the_end(client) as futures, tqdm(total=round(sum(lengths.values())), unit=" s of video") as bar:
        for video in sorted(todo, key=lengths.get, reverse=True):  # the longest first, so that no worker is late at the end
            arguments = run.loaded.videos[video], todo[video], run.protocol, run.name, run.file(video)
            futures[client.submit(answer_on_worker, *arguments, pure=False)] = video
        for future in as_completed(futures):
            video = futures[future]
            if future.status == "finished":
                rows[video] = future.result()
            else:
                error = "".join(traceback.format_exception_only(future.exception())).strip()
                tqdm.write(f"{video} failed: {error}")
                rows[video] = [unasked(question, FAILED, error) for question in todo[video]]
            bar.update(round(lengths[video]))
    return rows


@contextmanager
def _cancelled_at_the_end(client: Client) -> Iterator[dict]:
    """A dictionary for futures, which are cancelled when an exception, such as ctrl-C, ends the run."""
    futures: dict = {}
    try:
        yield futures
    except BaseException:
        client.cancel(list(futures), force=True)
        raise


def _print_estimate(client: Client, run: Run, todo: dict[str, list[Question]], lengths: dict[str, float]) -> None:
    """Measure a chunk of the first video that can be read, and say how long all will take."""
    for video in todo:
        if _cannot_be_read(run, video):
            continue
        measured = client.submit(measure_chunk, run.loaded.videos[video], run.protocol, pure=False).result()
        asked = sum(len(question.times) for questions in todo.values() for question in questions)
        planned = client.cluster.worker_spec if client.cluster else client.nthreads()  # some may not have started yet
        workers = min(len(planned), len(todo))
        print(estimate_text(measured, math.fsum(lengths.values()), asked, workers), flush=True)
        return


def _cannot_be_read(run: Run, video: str) -> bool:
    try:
        first_frames(run.protocol.source(run.loaded.videos[video]))
    except (OSError, ValueError):
        return True
    return False


def _without_answer(run: Run, question: Question) -> dict:
    if question.problem:
        return unasked(question, NOT_ASKED, question.problem)
    return unasked(question, MISSING, NO_FILE)


def _check_settings(run: Run) -> None:
    file, settings = run.out / SETTINGS, as_json(run.settings())
    try:
        stored = json.loads(file.read_text())
    except (OSError, ValueError):
        stored = None
    if stored is None or not any((run.out / VIDEOS).glob("*.json")):
        write_atomic(file, json.dumps(settings, indent=1))
    elif stored != settings:
        name = next(name for name in settings if stored.get(name) != settings[name])
        raise ValueError(
            f"{run.out} has answers with {name}={stored.get(name)!r}, not {settings[name]!r}: give another --out, or the same "
            "settings to go on"
        )
