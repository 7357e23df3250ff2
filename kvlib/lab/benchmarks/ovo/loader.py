"""The questions of OVO-Bench, from `ovo_bench_new.json`, with the prompts of a clone of JoeLeelyf/OVO-Bench.

Quirks of the file, each of which is kept as the official evaluation keeps it:
- Right is the option number `gt`. `answer` is another text than `options[gt]` in 420 entries, and is not used.
- There are two to five options; with five the right one may be "E".
- `test_info` is not in order of time in 34 entries. A query keeps its number there: `<id>_<number>`.
- A moment behind the end of the video is asked at its end.
"""

from pathlib import Path

from kvlib.lab.benchmarks.files import bad_time, check_folder, digest, first_of, lacking, read_json, videos_within
from kvlib.lab.benchmarks.question import Loaded, Question
from kvlib.lab.benchmarks.templates import Clone, Template

REPOSITORY, ANNOTATIONS = "JoeLeelyf/OVO-Bench", "ovo_bench_new.json"
MODES = {
    "backward": ("EPM", "ASI", "HLD"),
    "real-time": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
CONSTANTS, CODE = "constant.py", "utils/OVOBench.py"  # of the clone
FIRST = ord("A")


def load(data: Path, repo: Path) -> Loaded:
    """The questions, with videos from `data`/src_videos or `data`.

    The annotations are those in `data`, else those of the clone `repo`. Raises FileNotFoundError and ValueError for what is
    missing or has another form.
    """
    check_folder(data)
    prompts = Prompts(Clone(repo, REPOSITORY))
    path = first_of((data / ANNOTATIONS, repo / "data" / ANNOTATIONS), f"put {ANNOTATIONS} there")
    questions = [question for entry in read_json(path) for question in prompts.questions(entry)]
    videos = videos_within((data / "src_videos", data), (question.video for question in questions))
    return Loaded(tuple(questions), videos, {path.name: digest(path)}, prompts.files)


class Prompts:
    """Makes questions of entries, with the texts of a `clone`."""

    def __init__(self, clone: Clone):
        self.choice = clone.template(CONSTANTS, "BR_PROMPT_TEMPLATE")
        self.forward: dict[str, Template] = {
            task: clone.template(CONSTANTS, f"{task}_PROMPT_TEMPLATE") for task in MODES["forward"]
        }
        self.count = clone.template(CODE, "question", "activity")
        self.files = clone.files

    def questions(self, entry: dict) -> list[Question]:
        """The question of an entry, or one for each of its `test_info`. Raises ValueError for an entry without id, video or a
        known task."""
        mode = next((mode for mode, tasks in MODES.items() if entry.get("task") in tasks), None)
        wrong = lacking(entry, ("id", "video", "task"))
        if wrong or mode is None:
            raise ValueError(f"{ANNOTATIONS}: {wrong or 'unknown task'} in {str(entry)[:200]}")
        same = dict(mode=mode, task=entry["task"], video=entry["video"])
        if mode != "forward":
            return [self._choice(entry, same)]
        queries = entry.get("test_info") or [{}]
        return [self._query(entry, query, f"{entry['id']}_{number}", same) for number, query in enumerate(queries)]

    def _choice(self, entry: dict, same: dict) -> Question:
        problem = lacking(entry, ("question", "options", "gt", "realtime")) or bad_time(entry["realtime"])
        if problem:
            return Question(str(entry["id"]), times=(), prompt="", truth="", problem=problem, **same)
        options = tuple(entry["options"])
        listed = "; ".join(f"{chr(FIRST + number)}. {option}" for number, option in enumerate(options)) + ";"
        return Question(
            str(entry["id"]), times=(float(entry["realtime"]),), prompt=self.choice.format(entry["question"], listed),
            truth=chr(FIRST + entry["gt"]), options=options, plain=entry["question"], **same,
        )  # fmt: skip

    def _query(self, entry: dict, query: dict, name: str, same: dict) -> Question:
        task = entry["task"]
        problem = _lacking(task, entry, query) or bad_time(query["realtime"])
        if problem:
            return Question(name, times=(), prompt="", truth="", problem=problem, **same)
        if task == "REC":
            asked, truth = self.count.fill(activity=entry["activity"]), str(query["count"])
        else:
            asked, truth = query["step"] if task == "SSR" else entry["question"], "Yes" if query["type"] else "No"
        prompt = self.forward[task].format(asked)
        return Question(name, times=(float(query["realtime"]),), prompt=prompt, truth=truth, plain=prompt, **same)


def _lacking(task: str, entry: dict, query: dict) -> str:
    keys = {"REC": ("activity", "count"), "SSR": ("step", "type"), "CRR": ("question", "type")}[task]
    found = {key: entry.get(key) for key in ("activity", "question")} | query
    return lacking(found, (*keys, "realtime"))
