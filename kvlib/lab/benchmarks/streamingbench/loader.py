"""The questions of StreamingBench, from `questions_<part>.json` or the CSV of the real-time part, with the prompts of a clone
of THUNLP-MT/StreamingBench.

Quirks of the files, and what is done with them:
- A time stamp is H:MM:SS, with one or two digits each. Two of the real-time part have another form (`00:12450`, `00:24`): which
  moment they mean is not known, so they are not asked, and the table lists them.
- 13 entries of the omni part have five to eight options, which are pieces of four. As in the official evaluation the first
  four are offered.
- Options without letters (98 of the sequential part) get them.
- The sequential part is a list of lists: the true answers of a list's earlier questions are part of a prompt.
"""

import ast
import csv
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kvlib.lab.benchmarks.files import check_folder, digest, lacking, read_json
from kvlib.lab.benchmarks.question import Loaded, Question
from kvlib.lab.benchmarks.templates import Clone

REPOSITORY, CSV = "THUNLP-MT/StreamingBench", "Real_Time_Visual_Understanding.csv"
PARTS = ("real", "omni", "sqa", "proactive")
CODE = "src/benchmark"  # of the clone
OFFERED = 4  # options
POLLED_FROM_S, POLLED_UP_TO_S = 1, 4  # after the question, and after the answer is due
KEYS = {"proactive": ("question", "time_stamp", "ground_truth_time_stamp", "ground_truth_output", "task_type")}
CHOICE_KEYS = ("question", "time_stamp", "options", "answer", "task_type")


def load(data: Path, repo: Path) -> Loaded:
    """The questions of all parts that have a file in `data`, with videos from anywhere in `data`. Where no part has one, those
    of the clone `repo`.

    The real-time part may be a CSV. A video is found as `preprocess.sh` of the clone calls it, or as it is unpacked:
    `<part>/sample_<number>/video.mp4`. Raises FileNotFoundError and ValueError for what is missing or has another form.
    """
    check_folder(data)
    prompts = Prompts(Clone(repo, REPOSITORY))
    files = question_files(data) or question_files(repo / "src/data")
    if not files:
        raise FileNotFoundError(f"no questions_*.json and no {CSV} in {data} or {repo}/src/data: put them into {data}")
    questions = [question for part, path in files.items() for question in prompts.questions(part, _threads(path, part))]
    found = {_published_name(path): path for path in sorted(data.rglob("*.mp4"))}
    videos = {question.video: found.get(Path(question.video).name) for question in questions}
    return Loaded(tuple(questions), videos, {path.name: digest(path) for path in files.values()}, prompts.files)


def question_files(folder: Path) -> dict[str, Path]:
    """The file of each part that has one in a folder."""
    named = {part: folder / f"questions_{part}.json" for part in PARTS}
    found = {part: path for part, path in named.items() if path.is_file()}
    return {"real": folder / CSV} | found if (folder / CSV).is_file() else found


def seconds(stamp: str) -> float:
    """The seconds of a time stamp H:MM:SS. Raises ValueError for another form."""
    found = re.fullmatch(r"(\d{1,2}):(\d{1,2}):(\d{1,2})", str(stamp))
    if found is None or int(found[2]) > 59 or int(found[3]) > 59:
        raise ValueError(f"the time stamp {stamp!r} is not of the form H:MM:SS")
    hours, minutes, rest = map(int, found.groups())
    return float(3600 * hours + 60 * minutes + rest)


class Prompts:
    """Makes questions of entries, with the texts of a `clone`."""

    def __init__(self, clone: Clone):
        self.choice = clone.template(f"{CODE}/StreamingBench.py", "PROMPT_TEMPLATE")
        self.choice_end = clone.templates(f"{CODE}/StreamingBench.py", "inp")[0]  # the second is for questions without options
        self.sequential = clone.template(f"{CODE}/StreamingBenchSQA.py", "PROMPT_TEMPLATE")
        options = [f"options_{number}" for number in range(OFFERED)]
        self.before = clone.template(f"{CODE}/StreamingBenchSQA.py", "context")
        self.earlier = clone.template(f"{CODE}/StreamingBenchSQA.py", "context", "time_stamp", "ques", *options, "answer")
        self.alert = clone.template(f"{CODE}/StreamingBenchProactive.py", "PROMPT_TEMPLATE_PROACTIVE")
        self.poll = clone.template(f"{CODE}/StreamingBenchProactive.py", "query", "question", "ground_truth_output")
        self.files = clone.files

    def questions(self, part: str, threads: list[list[tuple[str, dict]]]) -> Iterator[Question]:
        """The questions of a part, numbered from 0; one that cannot be asked has a `problem`. threads: (video, entry), those
        that follow one another in a list of their own."""
        number = count()
        for thread in threads:
            context = ""
            for video, asked in thread:
                question = self._question(part, f"{part}_{next(number)}", video, asked, context)
                if part == "sqa" and not question.problem:
                    context += self._told(asked, bool(context))
                yield question

    def _question(self, part: str, name: str, video: str, asked: dict, context: str) -> Question:
        task = str(asked.get("task_type"))
        problem = lacking(asked, KEYS.get(part, CHOICE_KEYS))
        try:
            if problem:
                raise ValueError(problem)
            made = self._alert(asked) if part == "proactive" else self._choice(part, asked, context)
        except ValueError as error:
            made = dict(times=(), prompt="", truth="", problem=str(error))
        return Question(name, part, task, video, **made)

    def _told(self, asked: dict, more: bool) -> str:
        """What a later prompt of the sequential part says of this question; the first time with an introduction."""
        options = {f"options_{number}": option for number, option in enumerate(lettered(asked["options"]))}
        known = dict(time_stamp=asked["time_stamp"], ques=asked["question"], answer=asked["answer"])
        return ("" if more else self.before.fill()) + self.earlier.fill(**known, **options)

    def _choice(self, part: str, asked: dict, context: str) -> dict:
        options = lettered(asked["options"])
        if len(options) < OFFERED:
            raise ValueError(f"the entry has {len(options)} options, and the prompt offers {OFFERED}")
        if part == "sqa":
            prompt = self.sequential.format(context, asked["question"], *options)
        else:
            prompt = self.choice.format(asked["question"], *options) + self.choice_end.fill()
        bare = tuple(re.sub(r"^[A-D]\.\s*", "", option) for option in options)
        times = (seconds(asked["time_stamp"]),)
        return dict(times=times, prompt=prompt, truth=asked["answer"], options=bare, plain=asked["question"])

    def _alert(self, asked: dict) -> dict:
        first, due = seconds(asked["time_stamp"]), seconds(asked["ground_truth_time_stamp"])
        times = tuple(float(at) for at in range(int(first) + POLLED_FROM_S, int(due) + POLLED_UP_TO_S + 1))
        if not times:
            raise ValueError(f"the answer is due at {due:g} s, long before the question at {first:g} s")
        poll = self.poll.fill(question=asked["question"], ground_truth_output=asked["ground_truth_output"])
        prompt, then = self.alert.format(poll), self.alert.format(asked["question"])
        return dict(times=times, prompt=prompt, then=then, truth=asked["ground_truth_output"], due_s=due, plain=prompt)


def lettered(options: list[str]) -> list[str]:
    """The options that are offered, each with its letter."""
    if options and not options[0].startswith("A."):
        options = [f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options)]
    return options[:OFFERED]


def _published_name(path: Path) -> str:
    """The name of a video in the questions: its own, or what `preprocess.sh` makes of `<part>/sample_<number>/<name>.mp4`."""
    if not path.parent.name.startswith("sample_"):
        return path.name
    return f"{path.parent.name}_{path.parent.parent.name.replace(' ', '_')}.mp4"


def _threads(path: Path, part: str) -> list[list[tuple[str, dict]]]:
    """The questions of a file, each with its video; those that follow one another in a list of their own."""
    if path.suffix == ".csv":
        return [[_row(row, path)] for row in csv.DictReader(path.open(encoding="utf-8-sig", newline=""))]
    entries = read_json(path)
    lists = entries if part == "sqa" else [[entry] for entry in entries]
    try:
        return [[(e["video_path"], question) for e in entry for question in e["questions"]] for entry in lists]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} has an entry of another form ({error!r}): download it again") from error


def _row(row: dict, path: Path) -> tuple[str, dict]:
    """A row of the CSV: the sample's number stands before the last underscore of `question_id`."""
    found = re.search(r"(sample_\d+)_\d+$", row.get("question_id") or "")
    if found is None:
        raise ValueError(f"{path}: question_id={row.get('question_id')!r} is not of the form ..._sample_<number>_<number>")
    try:
        return f"{found[1]}_real.mp4", row | {"options": ast.literal_eval(row["options"])}
    except (KeyError, SyntaxError, ValueError):
        return f"{found[1]}_real.mp4", row | {"options": None}
