"""Verdicts of notebook 04, from tables of scores, causes and strategies."""

import pandas as pd
import pytest

from kvlib.lab.verdicts.positions import Size, Tables, conclude, judge

PASSED = dict.fromkeys(["D1", "D2", "D3", "D4"], "PASS")
ENOUGH = Size(30, 30, [8, 208], 48)
LOST = "the position gap: contiguous, it is right"


def scores(keep: tuple, remap: tuple) -> pd.DataFrame:
    """Titles (correct of 40, low, high) after 208 chunks; all are right after 8."""
    rows = []
    for mode, (correct, low, high) in dict(keep=keep, remap=remap).items():
        rows.append(("title", mode, 8, 40, 40, 1.0, 0.9, 1.0))
        rows.append(("title", mode, 208, correct, 40, correct / 40, low, high))
    return pd.DataFrame(rows, columns=["question", "position_mode", "chunks", "correct", "n", "accuracy", "low", "high"])


def tables(answers: int = 240, keep=(10, 0.125, 0.375), remap=(36, 0.75, 1.0), repaired: int = 9, lost: int = 10, fill=1.0):
    """`lost` of 12 titles are wrong in keep, `repaired` of these through the gap. Three cards are wrong too, one through it."""
    reasons = [LOST] * repaired + ["eviction"] * (lost - repaired)
    errors = [dict(question="title", correct=False, reason=reason) for reason in reasons]
    errors += [dict(question="title", correct=True, reason="")] * (12 - lost)
    errors += [dict(question="history", correct=False, reason=reason) for reason in (LOST, "eviction", "eviction")]
    summary = pd.DataFrame(
        dict(now=[0.75, 1.0], now_low=[0.5, 0.7], now_high=1.0, now_n=40, backward=[0.25, 0.5], backward_low=[0.1, 0.4],
             backward_high=[0.4, 0.6], backward_n=80, cache_bytes=1000, seconds=[0.1, 0.2]), index=["keep", "remap"],
    )  # fmt: skip
    tried = pd.DataFrame(dict(fill=[0.5, fill]))
    return Tables(pd.DataFrame(dict(stream=range(answers))), scores(keep, remap), pd.DataFrame(errors), tried, summary)


def test_all_is_as_it_should_be(judged):
    assert judged(judge, tables(), ENOUGH, 0.5) == PASSED


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(answers=239), "D1"),
        (dict(keep=(36, 0.75, 1.0), remap=(10, 0.125, 0.375)), "D2"),  # remap is worse
        (dict(repaired=8), "D3"),
        (dict(fill=1.001), "D4"),
    ],
)
def test_one_criterion_fails(judged, changed, failed):
    assert judged(judge, tables(**changed), ENOUGH, 0.5) == PASSED | {failed: "FAIL"}


@pytest.mark.parametrize(
    ("changed", "undecided"),
    [
        (dict(keep=(20, 0.5, 0.75)), "D2"),  # the intervals touch
        (dict(keep=(30, 0.625, 0.875)), "D2"),  # they overlap
        (dict(keep=(36, 0.75, 1.0), remap=(20, 0.5, 0.75)), "D2"),
        (dict(keep=(36, 0.75, 1.0), remap=(30, 0.625, 0.875)), "D2"),
        (dict(repaired=0, lost=0), "D3"),  # no title was lost
    ],
)
def test_what_shows_no_difference_is_not_judged(judged, changed, undecided):
    assert judged(judge, tables(**changed), ENOUGH, 0.5) == PASSED | {undecided: "WARN"}


@pytest.mark.parametrize(("streams", "few"), [((29, 30), ["D2"]), ((30, 29), ["D3"]), ((29, 29), ["D2", "D3"])])
def test_with_few_streams_of_their_own_criteria_are_not_judged(judged, report, recorded, streams, few):
    size, found = Size(*streams, [8, 208], 48), tables(answers=8 * streams[0])
    assert judged(judge, found, size, 0.5) == PASSED | dict.fromkeys(few, "WARN")
    judge(report, found, size, 0.5)
    measured, _ = recorded(report)
    said = {name: ", too few to tell" if name in few else "" for name in ("D2", "D3")}
    assert measured["D2"] == f"remap 0.90, keep 0.25, n = 40 each{said['D2']}"
    assert measured["D3"] == f"9 of 10{said['D3']}"
    assert conclude(report, found, size) == (
        "After 208 chunks keep answers 10 of 40 titles, remap 36 of 40. Of 13 wrong answers of keep after 48 chunks, 10 are "
        "due to the gap. Too few to tell: conclusions and a recommendation need 30 streams. figures/full_size shows larger "
        "runs; -p STREAMS 200 -p STRATEGY_STREAMS 100 makes another."
    )


def test_what_was_measured(report, recorded):
    judge(report, tables(), ENOUGH, 0.5)
    measured, values = recorded(report)
    assert measured == {"D1": 240, "D2": "remap 0.90, keep 0.25, n = 40 each", "D3": "9 of 10", "D4": 1.0}
    assert [row["description"] for row in report.criteria][1:3] == [
        "title after 208 chunks: remap above keep, intervals apart",
        "titles that keep lost and that the same tokens at contiguous positions bring back: at least 90%",
    ]
    assert values == {
        "title, keep, 8 chunks": 1.0,
        "title, keep, 208 chunks": 0.25,
        "title, remap, 8 chunks": 1.0,
        "title, remap, 208 chunks": 0.9,
        "now, keep": 0.75,
        "backward, keep": 0.25,
        "cache at most, keep": 1000,
        "processing and asking per chunk, keep": 0.1,
        "now, remap": 1.0,
        "backward, remap": 0.5,
        "cache at most, remap": 1000,
        "processing and asking per chunk, remap": 0.2,
        "predicted for a chunk at the full budget": 0.5,
    }
    assert report.measurements[1]["interval"] == (0.125, 0.375) and report.measurements[5]["interval"] == (0.1, 0.4)
    assert report.measurements[5]["n"] == 80


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ((10, 0.125, 0.375), "The gap costs the title: keep 0.25 [0.12, 0.38], remap 0.90 [0.75, 1.00]."),
        ((20, 0.5, 0.75), "No cost of the gap is shown: keep 0.50 [0.50, 0.75], remap 0.90 [0.75, 1.00]."),
    ],
)
def test_the_conclusion(report, keep, says):
    assert conclude(report, tables(keep=keep), ENOUGH) == report.conclusion == (
        f"After 208 chunks keep answers {keep[0]} of 40 titles, remap 36 of 40. Of 13 wrong answers of keep after 48 chunks, "
        f"10 are due to the gap. {says} The cheapest strategy within the interval of the best, now and backward, is remap: "
        "now 1.00, backward 0.50; keep: now 0.75, backward 0.25."
    )  # fmt: skip
