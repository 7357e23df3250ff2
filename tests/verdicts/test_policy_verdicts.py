"""Verdicts of notebook 05, from the answers of four methods whose right ones are known."""

import pandas as pd
import pytest

from kvlib.lab.study.statistics import summarise
from kvlib.lab.verdicts.policies import OnVideo, Results, conclude, judge

PASSED = dict.fromkeys(["S1", "S2", "S3", "S4"], "PASS")
ONE_ROUNDING = 2**-8
# Right answers of a stream about history, of two: `uniform` is better in every stream but the first.
HISTORY = {"none": (1, 1), "sink_window": (1, 0), "uniform": (1, 1), "last_n": (1, 0)}
FIRST = {"uniform": (1, 0)}  # in stream 0
TTFT = {"none": 0.1, "sink_window": 0.1, "uniform": 0.1, "last_n": 3.1}


def everything(streams: int, cache_tokens: dict) -> pd.DataFrame:
    rows = []
    for stream in range(streams):
        for method, right in HISTORY.items():
            right = FIRST.get(method, right) if stream == 0 else right
            asked = [("now", 0, True), ("title", 9, method != "last_n"), ("history", 1, right[0]), ("history", 4, right[1])]
            same = dict(stream=stream, budget=300, method=method, cache_bytes=1000, prompt_tokens=20, ttft=TTFT[method])
            same["cache_tokens"] = cache_tokens.get(method, 300)
            truths = [
                dict(question=question, age=age, truth=f"{stream} {age}", correct=bool(ok)) for question, age, ok in asked
            ]
            rows += [same | truth for truth in truths]
    return pd.DataFrame(rows)


def results(streams: int = 30, cache_tokens=None, error: float = 0.99 * ONE_ROUNDING, drop=(), truth=None) -> Results:
    table = everything(streams, cache_tokens or {"none": 999}).drop(list(drop))
    if truth:
        table.loc[0, "truth"] = truth
    drift = pd.DataFrame(dict(method=["chain", "original", "original"], error=[0.5, 0.001, error]))
    other = table[table["method"] == "uniform"].assign(budget=150, cache_tokens=150, correct=False)  # not in the comparison
    return Results(pd.concat([table, other]), summarise(table, "method", 0), drift, 300, streams, 0)


def on_video(right: int = 9, misread: int = 0, by_reader: bool = True, titles: bool = True) -> OnVideo:
    """Ten answers to the question for the title, so many of them exact, and misread; the others are other texts."""
    said = ["A Title of Ten"] * right + ["A Title of Tan"] * misread + ["Another Title"] * (10 - right - misread)
    same = dict(tokens_seen=600, tokens_dropped=60, cache_tokens=290, video_s=10.0, question="title", truth="A Title of Ten")
    rows = [same | dict(method=method, answer=answer) for method, answers in (("sink_window", said), ("last_n", [""] * 10))
            for answer in answers]  # fmt: skip
    shares = [("now", "sink_window", 10, 0.5), ("now", "last_n", 10, 1.0)]
    shares += [("title", "sink_window", 10, right / 10), ("title", "last_n", 10, 0.0)] if titles else []
    return OnVideo(pd.DataFrame(rows), pd.DataFrame(shares, columns=["question", "method", "n", "accuracy"]), by_reader)


def test_all_is_as_it_should_be(judged):
    assert judged(judge, results(), on_video(), 0.5) == PASSED


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(truth="another"), "S1"),  # one method was asked something else
        (dict(drop=[0]), "S1"),  # one method was asked less
        (dict(cache_tokens={"uniform": 301}), "S2"),
        (dict(error=ONE_ROUNDING), "S3"),
    ],
)
def test_one_criterion_fails(judged, changed, failed):
    assert judged(judge, results(2, **changed), on_video(), 0.5) == PASSED | {failed: "FAIL"}


def test_titles_on_the_video(judged):
    assert judged(judge, results(2), on_video(8), 0.5) == PASSED | {"S4": "FAIL"}
    assert judged(judge, results(2), on_video(0, misread=8), 0.5) == PASSED | {"S4": "FAIL"}
    assert judged(judge, results(2), on_video(2, misread=7), 0.5) == PASSED | {"S4": "WARN"}, "the reader's fault"


@pytest.mark.parametrize("video", [None, on_video(5, by_reader=False), on_video(5, titles=False)])
def test_titles_are_judged_for_the_reader_and_where_there_are_some(judged, report, recorded, video):
    assert judged(judge, results(2), video, 0.5) == PASSED | {"S4": "WARN"}
    judge(report, results(2), video, 0.5)
    assert recorded(report)[0]["S4"] == "another model, or no subtitle in the first chunk"


def test_what_was_measured(report, recorded):
    judge(report, results(), on_video(), 0.5)
    measured, values = recorded(report)
    assert measured == {"S1": 30 * 4, "S2": 1.0, "S3": 0.99 * ONE_ROUNDING, "S4": "9 of 10 exact, 0 misread"}
    assert report.criteria[3]["description"] == (
        "on the video, sink_window answers at least 90% of the questions for the title exactly (judged for the embedded reader)"
    )
    assert values["now, last_n"] == 1 and values["title, last_n"] == 0 and values["history, sink_window"] == 0.5
    assert values["backward, uniform minus sink_window on the same streams"] == pytest.approx(29 / 30 / 3)
    assert values["backward, last_n minus sink_window on the same streams"] == pytest.approx(-1 / 3)
    assert "backward, sink_window minus sink_window on the same streams" not in values
    assert values["title on the video, sink_window"] == 0.9 and values["now on the video, last_n"] == 1
    assert values["share of these tokens dropped, sink_window"] == 0.1
    assert "tokens of the video, last_n" not in values, "it has no cache"
    assert list(values)[-1] == "predicted for a chunk at the full budget" and values[list(values)[-1]] == 0.5
    by_name = {row["name"]: row for row in report.measurements}
    assert by_name["history, uniform"]["n"] == 60
    assert by_name["backward, uniform minus sink_window on the same streams"]["n"] == 30
    low, high = by_name["backward, uniform minus sink_window on the same streams"]["interval"]
    assert 0 < low < 29 / 30 / 3 < high == pytest.approx(1 / 3)


def test_the_conclusion(report):
    found = results()
    low = found.against.loc["uniform", "low"]
    assert conclude(report, found) == report.conclusion == (
        "At 300 tokens uniform keeps the most history of the evicting policies: 0.98, sink_window 0.50. Backward (title and "
        f"history), on the same streams, it leads sink_window by +0.32 [{low:+.2f}, +0.33]; the interval lies above zero. "
        "Prefilling the newest frames again (last_n) does at least as well as every policy on: now; it holds no bytes and "
        "takes 31 times as long to the first token. n = 30 streams."
    )  # fmt: skip


def test_a_lead_that_may_be_none_is_said_to_be_none(report, monkeypatch):
    monkeypatch.setitem(HISTORY, "uniform", (1, 0))
    monkeypatch.setitem(FIRST, "uniform", (1, 1))  # the only stream in which it is better
    monkeypatch.setitem(HISTORY, "last_n", (1, 1))
    text = conclude(report, results())
    assert "by +0.01 [+0.00, +0.03]; the interval does not exclude zero." in text
    assert "every policy on: now, history;" in text


def test_with_few_streams_no_policy_is_named(report):
    assert conclude(report, results(29)) == (
        "29 streams are too few to tell which policy keeps more: that needs 30. figures/full_size shows 200 streams; -p "
        "STREAMS 200 runs them. Prefilling the newest frames again (last_n) holds no bytes and takes 31 times as long to "
        "the first token as sink_window."
    )
