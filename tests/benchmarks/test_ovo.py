"""OVO-Bench: every quirk of its file, its prompts, and its rules, worked out by hand."""

import json
import shutil

import pytest

from kvlib.lab.benchmarks.ovo.loader import ANNOTATIONS, MODES, load
from kvlib.lab.benchmarks.ovo.scorer import is_right
from kvlib.lab.benchmarks.small_sets import write_ovo


@pytest.fixture
def entries(sets):
    return json.loads((sets / "ovo/data" / ANNOTATIONS).read_text())


def test_every_entry_is_a_question_and_every_query_of_a_forward_one(loaded, entries):
    found = loaded("ovo").questions
    assert [q.id for q in found if q.mode != "forward"] == [str(e["id"]) for e in entries if "gt" in e]
    forward = [e for e in entries if "test_info" in e]
    assert [q.id for q in found if q.mode == "forward"] == [
        f"{e['id']}_{n}" for e in forward for n in range(len(e["test_info"]))
    ]
    assert {(q.mode, q.task) for q in found} == {(mode, task) for mode, tasks in MODES.items() for task in tasks}
    assert all(q.problem == "" and len(q.times) == 1 for q in found)


def test_the_right_option_is_gt_and_not_the_answer(loaded, entries):
    questions = {q.id: q for q in loaded("ovo").questions}
    other = [e for e in entries if "gt" in e and e["answer"] != e["options"][e["gt"]]]
    assert len(other) > 3, "the set has this quirk"
    assert all(questions[str(e["id"])].truth == "ABCDE"[e["gt"]] for e in other)
    (five,) = [e for e in entries if len(e.get("options", [])) == 5 and e["video"] != "Ego4D/broken.mp4"]
    (two,) = [e for e in entries if len(e.get("options", [])) == 2]
    assert questions[str(five["id"])].truth == "E"
    options = "; ".join(f"{letter}. {text}" for letter, text in zip("ABCDE", five["options"], strict=True))
    assert questions[str(five["id"])].prompt == (f"\nQ: {five['question']}\nChoose from:\n{options};\nSay the letter only.\n")
    assert questions[str(two["id"])].options == tuple(two["options"])


def test_queries_keep_their_number_although_test_info_is_not_in_order_of_time(loaded):
    found = loaded("ovo").questions
    counted = [(q.id.split("_")[1], q.times, q.truth) for q in found if q.task == "REC"]
    assert counted == [("0", (9.0,), "2"), ("1", (3.0,), "0"), ("2", (6.5,), "1"), ("3", (11.0,), "12")]
    steps = [(q.times, q.truth, q.prompt) for q in found if q.task == "SSR"]
    assert steps[0] == ((8.0,), "No", "\nIs this being done now: step 2\nSay “Yes” or “No”.\n")
    assert [truth for _, truth, _ in steps] == ["No", "No", "Yes"]
    assert [q.truth for q in found if q.task == "CRR"] == ["No", "No", "Yes", "Yes"]
    (asked,) = {q.prompt for q in found if q.task == "REC"}
    assert asked == "\nHow often do they jump?\nSay the number only.\n"
    (asked,) = {q.prompt for q in found if q.task == "CRR"}
    assert asked == "\nWhat was said?\nCan this be answered by now? Say “Yes” or “No”.\n"


def test_videos_are_found_and_missing_ones_are_none(loaded, sets):
    videos = loaded("ovo").videos
    assert videos["COIN/tutorial 3&index=1.mp4"] == sets / "ovo/data/src_videos/COIN/tutorial 3&index=1.mp4"
    assert [name for name, path in videos.items() if path is None] == ["Ego4D/gone.mp4"]


def test_modes_can_be_chosen(loaded):
    every = loaded("ovo")
    chosen = every.chosen(["backward"])
    assert {q.task for q in chosen.questions} == {"EPM", "ASI", "HLD"} and set(chosen.videos) < set(every.videos)
    assert every.chosen([]).questions == every.questions
    with pytest.raises(ValueError, match="mode 'past' has no question: choose from backward, real-time, forward"):
        every.chosen(["past"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (dict(realtime="soon"), "the time 'soon' is no number of seconds"),
        (dict(realtime=-1), "the time -1 is no number"),
        (dict(realtime=None), "the entry has no realtime"),
        (dict(gt=None), "the entry has no gt"),
        (dict(options=None), "the entry has no options"),
    ],
)
def test_an_entry_that_cannot_be_asked_says_why(tmp_path, change, problem):
    write_ovo(tmp_path)
    path = tmp_path / "data" / ANNOTATIONS
    entries = json.loads(path.read_text())
    entries[2] |= change
    path.write_text(json.dumps(entries))
    found = load(tmp_path / "data", tmp_path)
    assert [q.id for q in found.questions if q.problem] == ["2"] and problem in found.questions[2].problem
    assert len(found.questions) == len(load(tmp_path / "data", tmp_path).questions)


def test_files_that_are_missing_or_something_else_are_named(sets, tmp_path):
    bare = shutil.copytree(sets / "ovo", tmp_path / "clone", ignore=shutil.ignore_patterns("data"))
    with pytest.raises(FileNotFoundError, match=r"no .*/ovo_bench_new.json and no .*: put ovo_bench_new.json there"):
        load(tmp_path, bare)
    with pytest.raises(FileNotFoundError, match="no folder .*absent: give --data"):
        load(tmp_path / "absent", sets / "ovo")
    for content, message in (
        ("version https://git-lfs", "is no JSON"),
        ("{}", "is not a list"),
        ('[{"id": 0}]', "no video, task"),
    ):
        (tmp_path / ANNOTATIONS).write_text(content)
        with pytest.raises(ValueError, match=message):
            load(tmp_path, sets / "ovo")
    (tmp_path / ANNOTATIONS).write_text('[{"id": 0, "video": "a.mp4", "task": "XYZ"}]')
    with pytest.raises(ValueError, match="unknown task"):
        load(tmp_path, sets / "ovo")


@pytest.mark.parametrize(
    ("task", "truth", "answer", "right"),
    [
        ("EPM", "B", "B", True),
        ("EPM", "B", "B. the red one", True),
        ("EPM", "B", "The answer is B", True),
        ("EPM", "B", "b", False),
        ("EPM", "A", "Apples", True),  # the letter may be part of a word
        ("EPM", "B", "A or B", True),  # several letters are right, too
        ("EPM", "E", "D", False),
        ("EPM", "E", "E", True),
        ("OCR", "C", "", False),
        ("REC", "3", "3", True),
        ("REC", "3", "They did it 3 times.", True),
        ("REC", "3", "three", False),
        ("REC", "12", "1 or 2", True),  # all digits are joined
        ("REC", "3", "2, 3", False),
        ("REC", "0", "", False),
        ("SSR", "Yes", "Yes, it is", True),
        ("SSR", "Yes", "Y", True),
        ("SSR", "Yes", "Y.", False),  # only exactly the letter
        ("SSR", "No", "N", True),
        ("SSR", "No", "Y", False),
        ("SSR", "Yes", "yes", False),
        ("CRR", "No", "Not yet", True),  # "No" is part of it
        ("CRR", "No", "I do Not know: Yes", True),
        ("CRR", "Yes", "No", False),
        ("CRR", "Yes", "N", False),
    ],
)  # fmt: skip
def test_what_counts_as_right(task, truth, answer, right):
    assert is_right(dict(task=task, truth=truth, answer=answer)) is right
