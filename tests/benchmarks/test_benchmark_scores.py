"""Shares, means and totals of small tables, worked out by hand."""

import math

import pandas as pd
import pytest

from kvlib.lab.benchmarks.ovo import scorer as ovo
from kvlib.lab.benchmarks.scores import by_mode, by_task, judged, latex, left_out
from kvlib.lab.benchmarks.streamingbench import scorer as streamingbench

# mode, task, video, answers (None: without one); the right letter is A
ASKED = [
    ("backward", "EPM", "a", ["A", "A", "A", "B"]),  # 3 of 4
    ("backward", "ASI", "b", ["B"]),  # 0 of 1
    ("real-time", "OCR", "a", ["A", "B", None, None]),  # 1 of 2
    ("forward", "SSR", "c", ["A"]),
]


def table(asked=ASKED) -> pd.DataFrame:
    rows = [
        dict(mode=mode, task=task, video=video, truth="A", answer=answer, counted=answer, problem="" if answer else "gone",
             status="answered" if answer else "missing video", id=str(number))
        for mode, task, video, answers in asked for number, answer in enumerate(answers)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_tasks_are_counted_with_wilson_intervals_and_what_is_left_out():
    found = by_task(judged(table(), ovo)).set_index("task")
    assert found["right"].to_dict() == {"EPM": 3, "ASI": 0, "OCR": 1, "SSR": 1}
    assert found["n"].to_dict() == {"EPM": 4, "ASI": 1, "OCR": 2, "SSR": 1}
    assert found["left_out"].to_dict() == {"EPM": 0, "ASI": 0, "OCR": 2, "SSR": 0}
    assert found["share"].to_dict() == {"EPM": 0.75, "ASI": 0, "OCR": 0.5, "SSR": 1}
    assert found[["low", "high"]].isna().all(axis=None), "answers about one video"
    (task,) = by_task(judged(table([("backward", "EPM", video, ["A"]) for video in "abcdef"]), ovo)).itertuples()
    assert (task.low, task.high) == (pytest.approx(0.6097, abs=1e-4), 1)
    unanswered = [("backward", "EPM", video, ["A"] if video < "f" else [None]) for video in "abcdef"]
    (task,) = by_task(judged(table(unanswered), ovo)).itertuples()
    assert task.share == 1 and math.isnan(task.low), "answers about five videos"


def test_a_mode_is_the_mean_of_its_tasks_and_a_total_the_mean_of_its_modes():
    found = by_mode(judged(table(), ovo), ovo).set_index("mode")
    expected = {"backward": (0.75 + 0) / 2, "real-time": 0.5, "forward": 1.0}
    expected |= {"total": (0.375 + 0.5 + 1.0) / 3, "total without forward": (0.375 + 0.5) / 2}
    assert found["score"].to_dict() == pytest.approx(expected)
    assert found.loc["total", ["n", "left_out"]].tolist() == [8, 2]
    assert found.loc["total without forward", ["n", "left_out"]].tolist() == [7, 2]
    assert found[["low", "high"]].isna().all(axis=None), "three videos have no interval"


def test_without_the_forward_mode_there_is_no_total_of_three():
    found = by_mode(judged(table(ASKED[:3]), ovo), ovo)
    assert list(found["mode"]) == ["backward", "real-time", "total without forward"]


def test_streamingbench_takes_the_mean_over_questions():
    asked = [("real", "Counting", "a", ["A", "A", "A", "B"]), ("real", "Text", "b", ["B"]), ("sqa", "Seq", "c", ["A"])]
    found = by_mode(judged(table(asked), streamingbench), streamingbench).set_index("mode")
    assert found["score"].to_dict() == pytest.approx({"real": 3 / 5, "sqa": 1.0})
    assert found["n"].to_dict() == {"real": 5, "sqa": 1}


def test_the_interval_is_over_videos():
    """Ten questions each about 20 videos, all right or all wrong in each: n is 20, not 200."""
    asked = [("real", "Text", str(video), ["AB"[video % 2]] * 10) for video in range(20)]
    row = by_mode(judged(table(asked), streamingbench), streamingbench).iloc[0]
    assert row["score"] == 0.5
    assert row["low"] == pytest.approx(0.3, abs=0.05) and row["high"] == pytest.approx(0.7, abs=0.05)


def test_where_all_videos_are_alike_the_interval_is_that_of_one_question_each():
    asked = [("real", "Text", str(video), ["A"] * 9) for video in range(6)]
    others = [("sqa", "Seq", f"other {video}", ["AB"[video % 2]]) for video in range(90)]
    rows = by_mode(judged(table(asked + others), streamingbench), streamingbench).set_index("mode")
    assert (rows.loc["real", "low"], rows.loc["real", "high"]) == pytest.approx((0.6097, 1.0), abs=1e-4)
    few = by_mode(judged(table(asked[:5] + others), streamingbench), streamingbench).set_index("mode")
    assert few.loc["real", ["low", "high"]].isna().all() and few.loc["sqa", ["low", "high"]].notna().all()


def test_a_mean_has_no_interval_where_one_of_its_parts_is_about_few_videos():
    def asked(mode: str, task: str, videos: int) -> list[tuple]:
        return [(mode, task, str(video), ["AB"[video % 2]]) for video in range(videos)]

    rows = (
        asked("backward", "EPM", 20) + asked("backward", "ASI", 5) + asked("real-time", "OCR", 20) + asked("forward", "SSR", 20)
    )
    found = by_mode(judged(table(rows), ovo), ovo).set_index("mode")["low"]
    assert found[["backward", "total", "total without forward"]].isna().all() and found[["real-time", "forward"]].notna().all()
    rows += [("backward", "ASI", "5", ["A"])]
    assert by_mode(judged(table(rows), ovo), ovo)["low"].notna().all()


def test_nothing_answered_is_no_score():
    rows = judged(table([("backward", "EPM", "a", [None, None])]), ovo)
    assert by_mode(rows, ovo).empty and rows["right"].isna().all()
    (task,) = by_task(rows).itertuples()
    assert (task.n, task.left_out) == (0, 2) and math.isnan(task.share) and math.isnan(task.low)


def test_what_is_left_out_is_counted_by_reason():
    (reason,) = left_out(table()).to_dict("records")
    assert reason == dict(status="missing video", problem="gone", videos=1, questions=2)


def test_the_latex_table_has_every_task_mean_and_total():
    rows = judged(table(), ovo)
    text = latex(by_task(rows), by_mode(rows, ovo), r"50% of a_b & \c")
    assert r"\caption{50\% of a\_b \& \textbackslash{}c}" in text
    lines = [line.split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    assert [line[0] for line in lines] == [
        "task", "EPM", "ASI", "backward, mean", "OCR", "real-time, mean", "SSR", "forward, mean", "total, mean",
        "total without forward, mean",
    ]  # fmt: skip
    assert lines[1][1:] == ["75.0", "4", r"0 \\"] and lines[4][2:] == ["2", r"2 \\"]
