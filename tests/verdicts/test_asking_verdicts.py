"""Verdicts of notebook 03, from four questions and tables of scores."""

import pandas as pd
import pytest

from kvlib.lab.verdicts.asking import PRECISION, RECALL, TIMED, Collected, Scores, conclude, judge
from kvlib.lab.video.subtitles import Subtitle

PASSED = dict.fromkeys(["C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"], "PASS")
SUBTITLES = [Subtitle(0, 2, "one"), Subtitle(2, 4, "two"), Subtitle(6, 8, "one")]


def collected(expected: int = 4, lines=("one", "two"), **changed) -> Collected:
    asks = dict(time_s=[1.0, 3.0, 5.0, 7.0], answer=["one", "two", "No text visible", "one"], unchanged=True, ttft=0.25)
    asks |= dict(
        tokens_seen=[100, 200, 300, 400], tokens_dropped=[0, 20, 60, 100], cache_tokens=150, video_s=[2.0, 4.0, 6.0, 8.0]
    )
    return Collected(pd.DataFrame(asks | dict(computing_s=4.0) | changed), expected, SUBTITLES, lines)


def scores(**changed) -> Scores:
    """All subtitles were read; `changed`: (value, n) by name."""
    shares = dict.fromkeys((RECALL, PRECISION, TIMED), (0.9, 10)) | changed
    rows = {name: (value, 0.5, 0.75, n) for name, (value, n) in shares.items()}
    answers = {"exact answers": (0.75, 0.25, 0.875, 4), "character error rate": (0.125, float("nan"), float("nan"), 9)}
    columns = ["value", "low", "high", "n"]
    return Scores(*(pd.DataFrame.from_dict(table, orient="index", columns=columns) for table in (answers, rows)))


def test_all_is_as_it_should_be(judged):
    assert judged(judge, collected(), scores()) == PASSED


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(expected=5), "C1"),
        (dict(unchanged=[True, True, False, True]), "C2"),
        (dict(answer="No text visible"), "C3"),
        (dict(lines=()), "C4"),
        (dict(ttft=[1.0, 1.0, 1.0, 37.0]), "C5"),  # 10 s on average
    ],
)
def test_one_criterion_fails(judged, changed, failed):
    assert judged(judge, collected(**changed), scores()) == PASSED | {failed: "FAIL"}


@pytest.mark.parametrize(("id", "name"), [("C6", RECALL), ("C7", PRECISION), ("C8", TIMED)])
def test_subtitles_are_judged_by_their_shares(judged, id, name):
    assert judged(judge, collected(), scores(**{name: (0.899, 10)})) == PASSED | {id: "FAIL"}
    assert judged(judge, collected(), scores(**{name: (float("nan"), 0)})) == PASSED | {id: "WARN"}


def test_a_video_without_subtitles_is_not_scored(judged, report, recorded):
    assert judged(judge, collected(), None) == PASSED | dict.fromkeys(["C6", "C7", "C8"], "WARN")
    judge(report, collected(), None)
    measured, values = recorded(report)
    assert {measured[id] for id in ("C6", "C7", "C8")} == {"no subtitles to compare with"}
    assert "exact answers" not in values and values["tokens of the video"] == 400
    assert conclude(report, collected(), None).endswith("0.250 s. There are no subtitles to score the answers with.")


def test_what_was_measured(report, recorded):
    judge(report, collected(unchanged=[True, True, False, True]), scores())
    measured, values = recorded(report)
    share = "90% [50%, 75%], n = 10"
    assert measured == {
        "C1": "4 of 4", "C2": "3 of 4", "C3": 3, "C4": 2, "C5": 0.25, "C6": share, "C7": share, "C8": share,
    }  # fmt: skip
    assert values == {
        "exact answers": 0.75,
        "character error rate": 0.125,
        RECALL: 0.9,
        PRECISION: 0.9,
        TIMED: 0.9,
        "tokens of the video": 400,
        "share of these tokens dropped": 0.25,
        "tokens kept for each second of video": 37.5,
        "tokens stored at the end": 150,
        "computation for each second of video": 0.5,
    }
    assert [row["description"] for row in report.criteria][4:] == [
        "mean time to first token < 10 s",
        "at least 90% of the subtitles on screen when asked were read",
        "at least 90% of the subtitles read are true ones",
        "at least 90% of the true ones begin and end within one ask interval",
    ]
    assert [row["interval"] for row in report.measurements[:3]] == [(0.25, 0.875), None, (0.5, 0.75)]


def test_the_conclusion(report):
    found = collected(unchanged=[True, True, False, True])
    assert conclude(report, found, scores(**{TIMED: (0.5, 8)})) == report.conclusion == (
        "4 questions left the stream unchanged in 75% of cases and collected 2 unique lines in 3 subtitles, with a mean "
        "time to first token of 0.250 s. 75% [25%, 88%] of the answers are exact (95% Wilson, n = 4). 90% [50%, 75%] of the "
        "subtitles on screen when asked were read (n = 10), 50% [50%, 75%] of them with times within one ask interval (n = "
        "8)."
    )  # fmt: skip
