"""StreamingBench: every quirk of its files, its prompts, and its rules, worked out by hand."""

import csv
import json
import shutil

import pytest

from kvlib.lab.benchmarks.streamingbench.loader import CSV, load, seconds
from kvlib.lab.benchmarks.streamingbench.scorer import is_right

CHOICES = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", ("one", "two", "three", "four"), strict=True))


@pytest.fixture
def clone(sets, tmp_path):
    """A copy of the clone without videos, whose questions may be changed."""
    shutil.copytree(sets / "streamingbench/src", tmp_path / "src")
    (tmp_path / "videos").mkdir()
    return tmp_path


def of(loaded, mode: str) -> list:
    return [question for question in loaded("streamingbench").questions if question.mode == mode]


@pytest.mark.parametrize(("stamp", "at"), [("00:03:10", 190), ("1:00:00", 3600), ("00:00:8", 8), ("0:0:59", 59)])
def test_time_stamps(stamp, at):
    assert seconds(stamp) == at


@pytest.mark.parametrize("stamp", ["00:12450", "00:24", "00:00:61", "00:75:00", "", "00:00:01.5", None])
def test_time_stamps_of_another_form_are_not_guessed(stamp):
    with pytest.raises(ValueError, match="is not of the form H:MM:SS"):
        seconds(stamp)


def test_questions_with_such_time_stamps_are_listed_and_not_asked(loaded):
    broken = {question.id: question.problem for question in loaded("streamingbench").questions if question.problem}
    assert broken == {
        "real_12": "the time stamp '00:12450' is not of the form H:MM:SS",
        "real_13": "the time stamp '00:24' is not of the form H:MM:SS",
    }
    (odd,) = [question for question in of(loaded, "real") if question.id == "real_14"]
    assert odd.times == (8.0,)


def test_the_prompt_has_the_options_and_the_words_for_questions_with_options(loaded):
    first = of(loaded, "real")[0]
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", first.options, strict=True))
    assert first.prompt == f"Look at the video.\n\nQ: {first.plain}\n{options}\n\nThe letter:"
    assert first.truth == "A" and first.options[0].startswith("text ")


def test_of_options_in_pieces_the_first_four_are_offered(loaded):
    whole, pieces = of(loaded, "omni")
    assert [q.options for q in (whole, pieces)] == [("one", "half", "two", "three")] * 2
    assert "A. one\nhalf\nB. two\nC. three\n\nThe letter:" in pieces.prompt


def test_a_sequential_prompt_tells_the_earlier_questions_of_its_list_with_their_true_answers(loaded):
    asked = of(loaded, "sqa")
    assert [question.video[-8:] for question in asked[::3]] == ["real.mp4"] * 2 and len(asked) == 6
    told = [f"At 00:00:0{2 + n}: What is number {n}? {CHOICES} {'ABCD'[n]}. ".replace("\n", " ") for n in range(2)]
    for first in (0, 3):  # a new list begins anew
        contexts = ["", f"Before this: {told[0]}", f"Before this: {told[0]}{told[1]}"]
        for number, context in enumerate(contexts):
            assert asked[first + number].prompt == f"{context}\nQ: What is number {number}?\n{CHOICES}"


def test_an_alert_is_polled_each_second_from_one_after_the_question_to_four_after_it_is_due(loaded):
    alert = of(loaded, "proactive")[0]
    assert (alert.times, alert.due_s, alert.truth) == ((4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0), 6.0, "go")
    assert alert.prompt == 'Watch. What is number 0? Is it time for "go"? Say yes or no.\n'
    assert alert.then == "Watch. What is number 0?\n"


def test_the_csv_is_the_same_as_the_json_of_the_real_time_part(clone, loaded):
    expected = [question for question in of(loaded, "real") if question.video == "./videos/sample_3_real.mp4"]
    entries = json.loads((clone / "src/data/questions_real.json").read_text())
    rows = []
    for entry in entries:
        (asked,) = entry["questions"]
        sample = entry["video_path"].split("_")[1]
        row = dict(question_id=f"Real-Time Visual Understanding_sample_{sample}_7", task_type=asked["task_type"])
        rows.append(
            row | {name: asked[name] for name in ("question", "time_stamp", "answer")} | {"options": str(asked["options"])}
        )
    with (clone / "videos" / CSV).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = load(clone / "videos", clone)
    same = [question for question in found.questions if question.video == "sample_3_real.mp4"]
    assert [(q.id, q.times, q.prompt, q.truth) for q in same] == [(q.id, q.times, q.prompt, q.truth) for q in expected]
    assert {question.mode for question in found.questions} == {"real"} and len(found.questions) == len(entries)
    (clone / "videos" / CSV).write_text("question_id,options\nsample 3,[]\n")
    with pytest.raises(ValueError, match="question_id='sample 3' is not of the form"):
        load(clone / "videos", clone)


def test_videos_are_found_by_their_name_or_as_they_are_unpacked(clone):
    places = "flat/sample_0_real.mp4", "real/sample_1/video.mp4", "Emotion Recognition/sample_2/video.mp4"
    for place in places:
        (clone / "videos" / place).parent.mkdir(parents=True, exist_ok=True)
        (clone / "videos" / place).touch()
    path = clone / "src/data/questions_real.json"
    entries = json.loads(path.read_text())[:4]
    entries[2]["video_path"] = "/abs/videos/sample_2_Emotion_Recognition.mp4"
    path.write_text(json.dumps(entries))
    videos = load(clone / "videos", clone).videos
    found = {name: path and path.relative_to(clone / "videos").as_posix() for name, path in videos.items()}
    assert found["./videos/sample_0_real.mp4"] == places[0]
    assert found["./videos/sample_1_real.mp4"] == places[1]
    assert found["/abs/videos/sample_2_Emotion_Recognition.mp4"] == places[2]
    assert found["./videos/sample_11_real.mp4"] is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (dict(options=["A. one"]), "the entry has 1 options, and the prompt offers 4"),
        (dict(options=None), "the entry has no options"),
        (dict(answer=None), "the entry has no answer"),
    ],
)
def test_an_entry_that_cannot_be_asked_says_why(clone, change, problem):
    path = clone / "src/data/questions_real.json"
    entries = json.loads(path.read_text())
    entries[0]["questions"][0] |= change
    path.write_text(json.dumps(entries))
    assert load(clone / "videos", clone).questions[0].problem == problem


def test_files_of_another_form_are_named(clone):
    (clone / "src/data/questions_sqa.json").write_text('[{"questions": []}]')
    with pytest.raises(ValueError, match="questions_sqa.json has an entry of another form"):
        load(clone / "videos", clone)
    shutil.rmtree(clone / "src/data")
    with pytest.raises(FileNotFoundError, match=r"no questions_\*.json and no Real_Time_Visual_Understanding.csv in"):
        load(clone / "videos", clone)


@pytest.mark.parametrize(
    ("row", "right"),
    [
        (dict(mode="real", truth="C", answer="C. three"), True),
        (dict(mode="real", truth="C", answer="Clouds"), True),  # the first letter alone counts
        (dict(mode="real", truth="C", answer="The answer is C"), False),
        (dict(mode="real", truth="C", answer="c"), False),
        (dict(mode="omni", truth="C", answer=""), False),
        (dict(mode="proactive", truth="go", answer="I say go now", time_s=8, due_s=6), True),
        (dict(mode="proactive", truth="go", answer="go", time_s=4, due_s=6), True),
        (dict(mode="proactive", truth="go", answer="go", time_s=9, due_s=6), False),
        (dict(mode="proactive", truth="go", answer="Go", time_s=6, due_s=6), False),
    ],
)
def test_what_counts_as_right(row, right):
    assert is_right(row) is right
