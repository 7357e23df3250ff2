"""Verdicts of notebook 07, from answers whose right ones are known."""

import pandas as pd
import pytest

from kvlib.lab.verdicts.benchmarks import Results, conclude, judge

PASSED = dict.fromkeys(["B1", "B2", "B3", "B4", "B5"], "PASS")
RIGHT = {"window, remap": {"backward": 0, "real-time": 1}, "recall 2": {"backward": 1, "real-time": 1}}


def rows(videos: int = 30, right: dict = RIGHT) -> pd.DataFrame:
    made = [
        dict(video=f"{video}.mp4", method=method, mode=mode, right=found, tokens_stored=300, budget=300, evictions=video % 2)
        for method, by_mode in right.items()
        for video in range(videos)
        for mode, found in by_mode.items()
    ]
    return pd.DataFrame(made).astype({"right": "Int64"})


def results(table: pd.DataFrame, same=(True, True), alone: bool = True) -> Results:
    modes = table.groupby(["method", "mode"], sort=False)["right"].agg(score="mean", n="count").reset_index()
    return Results(table, modes.assign(low=0.25, high=0.75), pd.DataFrame(dict(same=same)) if alone else None, "ovo", 0)


def test_all_is_as_it_should_be(judged):
    assert judged(judge, results(rows())) == PASSED


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(same=(True, False)), "B1"),
        (dict(table=rows().assign(tokens_stored=301)), "B3"),
        (dict(table=rows(right=RIGHT | {"recall 2": {"backward": 0, "real-time": 1}})), "B4"),
        (dict(table=rows(right=RIGHT | {"recall 2": {"backward": 1, "real-time": 0}})), "B5"),
    ],
)
def test_one_criterion_fails(judged, changed, failed):
    assert judged(judge, results(**dict(table=rows()) | changed)) == PASSED | {failed: "FAIL"}


def test_what_is_not_judged(judged):
    assert judged(judge, results(rows(29))) == PASSED | {"B4": "WARN", "B5": "WARN"}, "too few videos"
    assert judged(judge, results(rows(), alone=False)) == {"B1": "WARN", "B2": "PASS", "B3": "PASS"}, "runs of the command"
    lacking = rows()
    lacking.loc[0, "right"] = pd.NA
    assert judged(judge, results(lacking)) == PASSED | {"B2": "WARN"}


def test_what_was_measured(report, recorded):
    judge(report, results(rows(4)))
    measured, values = recorded(report)
    assert measured["B1"] == "2 of 2" and measured["B2"] == "16 of 16" and measured["B3"] == "16 of 16"
    assert measured["B4"] == "+1.000, 4 videos, too few to tell"
    assert values["backward, recall 2"] == 1 and values["answers after an eviction, recall 2"] == 0.5
    assert conclude(report, results(rows(4))) == (
        "ovo, 8 questions about 4 videos, every video streamed once: window, remap: backward 0.000, real-time 1.000; recall 2: "
        "backward 1.000, real-time 1.000. As new streams fed the prefix alone: 2 of 2. 4 videos are too few to tell."
    )
    assert "too few" not in conclude(report, results(rows(30)))
