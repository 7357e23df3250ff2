"""Shares, intervals, differences and the recommendation, from answers whose numbers are known by counting."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from kvlib.lab.report.statistics import wilson
from kvlib.lab.study import statistics


def textbook_wilson(right: int, n: int) -> tuple[float, float]:
    z, share = 1.959963984540054, right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


@pytest.mark.parametrize(("right", "n"), [(0, 3), (1, 1), (9, 10), (48, 50), (100, 200)])
def test_the_interval_is_wilsons(right, n):
    assert wilson(right, n) == pytest.approx(textbook_wilson(right, n), abs=1e-12)


def test_intervals_of_a_column_are_those_of_its_rows_and_nan_without_answers():
    low, high = wilson(pd.Series([0, 9, 0]), pd.Series([3, 10, 0]))
    for i, (right, n) in enumerate([(0, 3), (9, 10)]):
        assert (low[i], high[i]) == pytest.approx(textbook_wilson(right, n), abs=1e-12)
    assert np.isnan([low[2], high[2], *wilson(0, 0)]).all()


@pytest.mark.parametrize(("right", "n"), [(4, 3), (-1, 3), (pd.Series([1, 4]), pd.Series([3, 3]))])
def test_counts_that_are_no_share_are_refused(right, n):
    with pytest.raises(ValueError, match="at most n right answers"):
        wilson(right, n)


def test_correct_answers_are_counted_per_group():
    answers = pd.DataFrame({"question": "title", "position_mode": "keep", "chunks": 8, "correct": [True] * 9 + [False]})
    row = statistics.count_by_stream(answers.assign(stream=range(10)), ["question", "position_mode", "chunks"], seed=0).iloc[0]
    assert (row["correct"], row["n"], row["streams"], row["accuracy"]) == (9, 10, 10, 0.9)
    assert (row["low"], row["high"]) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


def rows(name: str, stream: int, right: dict, **costs) -> list[dict]:
    return [dict(strategy=name, stream=stream, question=question, correct=bool(value), prompt_tokens=10, ttft=0.1, **costs)
            for question, values in right.items() for value in values]  # fmt: skip


def test_the_summary_counts_and_the_difference_is_paired():
    table = pd.concat(
        pd.DataFrame(
            rows("a", stream, {"now": [1], "title": [1], "history": [1, 0]}, cache_bytes=10)
            + rows("a", stream + 1, {"now": [1], "title": [0], "history": [0, 0]}, cache_bytes=12)
            + rows("b", stream, {"now": [0], "title": [1], "history": [1, 1]}, cache_bytes=5)
            + rows("b", stream + 1, {"now": [1], "title": [0], "history": [1, 0]}, cache_bytes=5)
        )
        for stream in (0, 2, 4)
    )
    summary = statistics.summarise(table, "strategy", seed=0)
    assert summary.loc["a", ["now", "title", "history", "backward"]].tolist() == [1, 0.5, 0.25, pytest.approx(2 / 6)]
    assert summary.loc["a", "backward_n"] == 18
    assert summary.loc["a", "cache_bytes"] == 12
    difference = statistics.paired_difference(table, "strategy", "a", seed=0)
    assert difference.loc["b"].tolist() == [pytest.approx(1 / 3)] * 3, "every stream gains one of three: no spread"
    assert difference.loc["a"].tolist() == [0, 0, 0]


def test_fewer_than_six_streams_have_no_interval():
    """Of five values all lie on one side of the true median in 1 of 16 cases, which is more than 5%; of six in 1 of 32."""
    right = [[1, 0], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1]]
    table = pd.DataFrame(
        row
        for stream, answers in enumerate(right)
        for name, values in (("a", [0, 0]), ("b", answers))
        for row in rows(name, stream, {"now": values[:1], "title": values}, cache_bytes=1, cache_tokens=1)
    )
    for streams in (1, 5, 6):
        some = table[table["stream"] < streams]
        counted = statistics.count_by_stream(some, ["strategy", "question"], seed=0)
        summary = statistics.summarise(some, "strategy", seed=0)
        difference = statistics.paired_difference(some, "strategy", "a", seed=0)
        for found in (counted, difference, summary[["title_low", "title_high", "now_low", "now_high"]]):
            bounds = found[[name for name in found if name.endswith(("low", "high"))]]
            assert bounds.notna().all(axis=None) if streams == 6 else bounds.isna().all(axis=None)
        assert counted["accuracy"].notna().all() and difference["difference"].notna().all()
        shown = statistics.readable(summary).loc["b", "title"]
        bounds = summary.loc["b", ["title_low", "title_high"]]
        assert shown == "0.58 [{:.2f}, {:.2f}]".format(*bounds) if streams == 6 else "[" not in shown


@pytest.mark.parametrize(
    ("backward", "size", "seconds", "advice"),
    [
        ([0.2, 0.9, 0.9], [1, 1, 1], [1, 2, 3], "second"),  # the plain one is too bad, the third too slow
        ([0.2, 0.9, 0.9], [1, 2, 1.05], [1, 2, 3], "third"),  # the second takes twice the bytes
        ([0.85, 0.9, 0.9], [1, 1, 1], [1, 2, 3], "first"),  # within the interval of the best
        ([0.9, 0.9, 0.9], [1, 1.05, 1.2], [3, 2, 1], "second"),  # a tenth more bytes count as equal, a fifth does not
    ],
)
def test_the_advice_is_the_cheapest_within_the_interval_of_the_best(backward, size, seconds, advice):
    summary = pd.DataFrame(
        {"now": 1.0, "now_low": 0.8, "backward": backward, "backward_low": [b - 0.1 for b in backward],
         "cache_bytes": size, "seconds": seconds}, index=["first", "second", "third"],
    )  # fmt: skip
    assert statistics.recommend(summary, "first") == advice


def streams_with(shares: list[tuple[int, int]]) -> pd.DataFrame:
    """A stream for each (right answers, answers)."""
    return pd.DataFrame(
        [dict(method="a", stream=stream, correct=i < right) for stream, (right, n) in enumerate(shares) for i in range(n)]
    )


def test_answers_of_one_stream_count_as_one_witness():
    alike = [(4, 4)] * 12 + [(0, 4)] * 4  # all four answers of a stream are right, or all are wrong
    (row,) = statistics.count_by_stream(streams_with(alike), ["method"], seed=0).itertuples()
    assert (row.correct, row.n, row.streams, row.accuracy) == (48, 64, 16, 0.75)
    # A draw of 16 streams has as many right ones as a binomial distribution with 16 tries and p = 3/4.
    assert row.low == pytest.approx(binom.ppf(0.025, 16, 0.75) / 16, abs=1 / 16)
    assert row.high == pytest.approx(binom.ppf(0.975, 16, 0.75) / 16, abs=1 / 16)
    low, high = wilson(48, 64)
    assert row.high - row.low > 1.5 * (high - low), "answers counted one by one would look too certain"


def test_streams_with_more_answers_weigh_more():
    (row,) = statistics.count_by_stream(streams_with([(1, 1), (0, 3)] * 8), ["method"], seed=0).itertuples()
    # Of 16 drawn streams 4 to 12 (95%) are right ones, with one answer each; the others have three wrong ones.
    assert (row.accuracy, row.low, row.high) == (0.25, pytest.approx(4 / (4 + 3 * 12)), pytest.approx(12 / (12 + 3 * 4)))


@pytest.mark.parametrize(("shares", "right"), [([(2, 2)] * 6, 6), ([(0, 3)] * 6, 0), ([(1, 2), (2, 4)] * 3, 3)])
def test_streams_that_are_all_alike_get_the_wilson_interval_of_one_answer_each(shares, right):
    (row,) = statistics.count_by_stream(streams_with(shares), ["method"], seed=0).itertuples()
    assert (row.low, row.high) == pytest.approx(textbook_wilson(right, len(shares)), abs=1e-12)


def test_a_difference_may_be_about_other_questions():
    table = pd.DataFrame(
        rows("a", 0, {"now": [1], "title": [1], "never shown": [1]}) + rows("a", 1, {"now": [0], "title": [1]})
        + rows("b", 0, {"now": [1], "title": [0], "never shown": [0]}) + rows("b", 1, {"now": [1], "title": [0]})
    )  # fmt: skip
    found = {
        asked: statistics.paired_difference(table, "strategy", "a", 0, asked).loc["b", "difference"]
        for asked in (("now",), ("now", "title"), ("never shown",))
    }
    assert found == {("now",): 0.5, ("now", "title"): -0.25, ("never shown",): -1}
    assert statistics.paired_difference(table, "strategy", "a", 0).loc["b", "difference"] == -1, "backward by default"


def test_differences_that_cancel_are_none():
    """Of seven answers a stream, so that the shares are no binary fractions: b is as good as a on average, and is worse by the
    same share in every stream."""
    right = {"a": [1, 2, 4, 3, 6, 5], "b": [2, 1, 3, 4, 5, 6], "c": [0, 1, 3, 2, 5, 4]}
    table = pd.DataFrame(
        row
        for name, each in right.items()
        for stream, n in enumerate(each)
        for row in rows(name, stream, {"title": [1] * n + [0] * (7 - n)})
    )
    found = statistics.paired_difference(table, "strategy", "a", seed=0)
    assert found.loc["b", "difference"] == 0 and not np.signbit(found.loc["b", "difference"])
    assert found.loc["c"].tolist() == [found.loc["c", "low"]] * 3 == [pytest.approx(-1 / 7)] * 3
