"""Verdicts of notebook 06, from the answers of 30 streams of which it is known where they are wrong."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from kvlib.lab.study.recall.comparison import NEVER
from kvlib.lab.verdicts.recall import Results, Size, conclude, judge

PASSED = dict.fromkeys(["R1", "R2", "R3", "R4", "R5", "R6", "R7"], "PASS")
ENOUGH = Size(30, 48, 30, 200, 500, 0)
TTFT = {"remap": 0.012, "recall 2": 0.024, "true chunk": 0.02, "random": 0.03}


def results(wrong=None, right=None, changed=None, size: Size = ENOUGH, same_stream: bool = True, resumed: str = "a") -> Results:
    """With recall all answers are right, but for `random`: like `remap` it knows no old card.

    wrong, right: {(method, question): number of streams in which it is otherwise}. changed: a method after whose question a
    fingerprint was another one.
    """
    rows = []
    for stream in range(30):
        for method, ttft in TTFT.items():
            for question, age in (("now", 0), ("title", 47), ("history", 12), ("history", 3), (NEVER, 0)):
                ok = question != "history" or method in ("recall 2", "true chunk") or age == 3
                ok = ok and stream >= (wrong or {}).get((method, question), 0) or age == 3
                ok = ok or stream < (right or {}).get((method, question), 0)
                row = dict(stream=stream, method=method, question=question, age=age, correct=ok, ttft=ttft)
                rows.append(row | dict(unchanged=stream > 0 or method != changed))
    ranks = dict(question=["history"] * 4 + ["now"], found=[True, True, True, False, True], rank=[1, 2, 1, 1, 1])
    said = pd.DataFrame(dict(undisturbed=["a", "b"], resumed=[resumed, "b"]))
    return Results(pd.DataFrame(rows), pd.DataFrame(ranks), said, same_stream, size)


def test_all_is_as_it_should_be(judged):
    assert judged(judge, results()) == PASSED


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(wrong={("recall 2", "history"): 4, ("true chunk", "history"): 4}), "R1"),
        (dict(wrong={("recall 2", "history"): 2}), "R2"),
        (dict(wrong={("recall 2", "now"): 8}), "R3"),
        (dict(wrong={("recall 2", "title"): 8}), "R3"),
        (dict(wrong={("recall 2", NEVER): 1}), "R4"),
        (dict(changed="recall 2"), "R5"),
        (dict(right={("random", "history"): 8}), "R6"),
        (dict(same_stream=False), "R7"),
        (dict(resumed="other"), "R7"),
    ],
)
def test_one_criterion_fails(judged, changed, failed):
    assert judged(judge, results(**changed)) == PASSED | {failed: "FAIL"}


@pytest.mark.parametrize(
    "changed",
    [
        dict(wrong={("recall 2", "history"): 3, ("true chunk", "history"): 3}),  # 27 of 30
        dict(wrong={("recall 2", "now"): 1}),  # the interval ends at 0
        dict(wrong={("remap", NEVER): 9}),
        dict(changed="remap"),  # which recalls nothing
        dict(right={("random", "history"): 1}),  # the interval begins at 0
    ],
)
def test_what_is_within_the_bounds_passes(judged, changed):
    assert judged(judge, results(**changed)) == PASSED


@pytest.mark.parametrize("few", [dict(streams=29), dict(long_streams=29)])
def test_with_few_streams_only_what_holds_for_each_is_judged(judged, report, recorded, few):
    size = replace(ENOUGH, **few)
    worse = dict(wrong={("recall 2", "history"): 20, ("recall 2", "now"): 20, ("recall 2", NEVER): 20})
    assert judged(judge, results(**worse, size=size)) == PASSED | dict.fromkeys(["R1", "R2", "R3", "R4", "R6"], "WARN")
    judge(report, results(size=size))
    assert recorded(report)[0]["R4"] == (
        f"1.000 [0.886, 1.000], n = 30 answers, too few to tell, {size.streams} streams of 48 chunks and {size.long_streams} "
        "of 200"
    )
    assert conclude(report, results(size=size)).endswith(
        " Too few to tell: that needs 30 streams of each length. figures/full_size shows more; -p STREAMS 50 -p LONG_STREAMS "
        "30 makes another."
    )


def test_what_was_measured(report, recorded):
    judge(report, results(wrong={("remap", NEVER): 3}, changed="recall 2"))
    measured, values = recorded(report)
    streams = "30 streams of 48 chunks and 30 of 200"
    assert measured == {
        "R1": f"1.000 [0.886, 1.000], n = 30 answers, {streams}",
        "R2": f"0.000 [0.000, 0.000], n = 30 answers, {streams}",
        "R3": f"0.000 [0.000, 0.000], n = 60 answers, {streams}",
        "R4": f"1.000 [0.886, 1.000], n = 30 answers, {streams}",
        "R5": "445 of 450",
        "R6": f"0.000 [0.000, 0.000], n = 30 answers, {streams}",
        "R7": "fingerprint equal, answers equal",
    }
    assert [row["description"] for row in report.criteria][:4] == [
        "recall 2, cards at least 10 chunks old: at least 0.90",
        "recall 2 minus true chunk on the same streams: the interval lies above -0.03",
        "now and title, recall 2 minus remap on the same streams: the interval includes 0 or lies above it",
        "recall 2, a card that was never shown: at least 0.97 say so (remap: 0.900)",
    ]
    assert values["cards at least 10 chunks old, remap"] == 0, "the card of age 3 is not old"
    assert values["cards at least 10 chunks old, recall 2"] == 1 and values["never shown, remap"] == 0.9
    assert values["evicted cards ranked first"] == 2 / 3, "of the three that were evicted"
    assert {name: values[f"time to first token, {name}"] for name in TTFT} == TTFT
    by_name = {row["name"]: row for row in report.measurements}
    assert by_name["now, recall 2"]["interval"] == (pytest.approx(0.886, abs=5e-4), 1) and by_name["now, recall 2"]["n"] == 30


def test_what_was_not_the_same_is_named(report, recorded):
    judge(report, results(same_stream=False, resumed="other"))
    assert recorded(report)[0]["R7"] == "fingerprint different, answers different"


def test_no_card_was_evicted(report, recorded):
    none = replace(results(), rankings=results().rankings.assign(found=False))
    judge(report, none)
    assert math.isnan(recorded(report)[1]["evicted cards ranked first"])
    assert "first in 0 of 0 questions" in conclude(report, none)


def test_the_conclusion(report):
    assert conclude(report, results(right={("random", "history"): 3})) == report.conclusion == (
        "At 500 tokens in all, recall 2 answers 1.000 [0.886, 1.000] of the questions about cards at least 10 chunks old, "
        "remap without recall 0.000, random chunks 0.100; minus the true chunk +0.000 [+0.000, +0.000]. The ranking puts "
        "the right card first in 2 of 3 questions. The first token takes 24 ms instead of 12 ms. 30 streams of 48 chunks "
        "and 30 of 200."
    )  # fmt: skip
