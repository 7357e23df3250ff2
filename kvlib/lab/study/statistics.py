"""Counting exact answers: shares with intervals, summaries per method, paired differences and the recommendation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from kvlib.lab.report.statistics import FEWEST, wilson, with_interval, without_rounding_error

ENOUGH = 30  # streams: with fewer the notebooks draw no conclusion
SCORED_QUESTIONS = ("now", "title", "history", "backward")  # backward: title and history together
BACKWARD = ("title", "history")
SHARE = ["accuracy", "low", "high"]  # columns of `count_by_stream`: a share and its interval


def summarise(answers: pd.DataFrame, by: str, seed: int) -> pd.DataFrame:
    """The quality and the cost of each value of the column `by`, in order of appearance: a table with `by` as its index.

    For every question (now, title, history over all ages) and for `backward` (title and history): the share of exact answers,
    `<question>_low` and `<question>_high` of its 95% interval (`count_by_stream`), and `<question>_n`. Then those of the costs
    that `answers` has: `cache_tokens` and `cache_bytes` (maximum), `prompt_tokens` (mean per question), `ttft` (median, s) and
    `seconds` (mean).
    """
    parts = [answers, answers[answers["question"] != "now"].assign(question="backward")]
    counted = count_by_stream(pd.concat(parts), [by, "question"], seed)
    table = pd.DataFrame(index=answers[by].unique())
    for question in SCORED_QUESTIONS:
        rows = counted[counted["question"] == question].set_index(by)
        for column, suffix in (("accuracy", ""), ("low", "_low"), ("high", "_high"), ("n", "_n")):
            table[question + suffix] = rows[column]
    costs = {"cache_tokens": "max", "cache_bytes": "max", "prompt_tokens": "mean", "ttft": "median", "seconds": "mean"}
    return table.join(answers.groupby(by).agg({name: how for name, how in costs.items() if name in answers}))


def readable(summary: pd.DataFrame) -> pd.DataFrame:
    """A `summarise` table for display: one column of text per share with its interval, and costs with their units."""
    table = pd.DataFrame(index=summary.index)
    for question in SCORED_QUESTIONS:
        bounds = zip(*(summary[question + part] for part in ("", "_low", "_high")), strict=True)
        table[question] = [with_interval(*found) for found in bounds]
    table["tokens stored"] = summary["cache_tokens"].map("{:,}".format)
    table["MiB held"] = (summary["cache_bytes"] / 2**20).map("{:.1f}".format)
    table["tokens per question"] = summary["prompt_tokens"].map("{:,.0f}".format)
    table["first token (ms)"] = (1e3 * summary["ttft"]).map("{:.0f}".format)
    if "seconds" in summary:
        table["per chunk (ms)"] = (1e3 * summary["seconds"]).map("{:.0f}".format)
    return table


def paired_difference(
    answers: pd.DataFrame, by: str, base: str, seed: int, questions: Sequence[str] = BACKWARD
) -> pd.DataFrame:
    """How much larger the share of exact answers to `questions` is than that of `base` on the same streams, those in which both
    were answered.

    A table [difference, low, high] with the values of the column `by` as its index. low and high are a 95% bootstrap interval
    (percentiles of 9,999 draws of whole streams), NaN for fewer than `FEWEST` streams.
    """
    asked = answers[answers["question"].isin(questions)]
    shares = asked.pivot_table(index="stream", columns=by, values="correct", aggfunc="mean")
    rows = {}
    for name in answers[by].unique():
        difference = (shares[name] - shares[base]).dropna().to_numpy()
        bounds = np.nan, np.nan
        if len(difference) >= FEWEST:
            drawn = bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(seed))
            bounds = drawn.confidence_interval
        rows[name] = without_rounding_error([difference.mean(), *bounds])
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high"])


def count_by_stream(answers: pd.DataFrame, by: list[str], seed: int) -> pd.DataFrame:
    """Per group: the columns `by`, correct, n, streams, accuracy and its 95% interval (low, high) over streams.

    With one answer a stream it is the Wilson interval. Several answers of one stream are not independent, so whole streams are
    drawn: percentiles of 9,999 bootstrap draws. Where all streams have the same share there is nothing to draw: then it is the
    Wilson interval of one answer per stream. Fewer than `FEWEST` streams have no interval (NaN): draws of a few values are
    too much alike, so that it would be too narrow.
    """
    rows = []
    for group, found in answers.groupby(by, sort=False):
        per_stream = found.groupby("stream")["correct"].agg(["sum", "count"])
        right, n, streams = per_stream["sum"].to_numpy(), per_stream["count"].to_numpy(), len(per_stream)
        accuracy = right.sum() / n.sum()
        if streams < FEWEST:
            bounds = np.nan, np.nan
        elif (n == 1).all() or np.allclose(right / n, accuracy):
            bounds = wilson(accuracy * streams, streams)
        else:
            drawn = bootstrap(
                (right, n), _share, paired=True, vectorized=True, method="percentile", rng=np.random.default_rng(seed)
            )
            bounds = drawn.confidence_interval
        rows.append([*group, right.sum(), n.sum(), streams, accuracy, *bounds])
    return pd.DataFrame(rows, columns=[*by, "correct", "n", "streams", "accuracy", "low", "high"])


def _share(right: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
    return right.sum(axis) / n.sum(axis)


def recommend(summary: pd.DataFrame, plain: str) -> str:
    """The cheapest row of a `summarise` table (with `seconds`) whose answers are as good as the best ones.

    As good: its shares, now and backward, both lie within the 95% interval of the best share. Cheapest: the fewest bytes, then
    the fewest seconds; all sizes up to a tenth more bytes than those of the row `plain` count as equal.
    """
    good = pd.Series(True, summary.index)
    for question in ("now", "backward"):
        good &= summary[question] >= summary.loc[summary[question].idxmax(), f"{question}_low"]
    cost = summary[["seconds"]].assign(size=(summary["cache_bytes"] / summary.loc[plain, "cache_bytes"]).clip(lower=1.1))
    return cost[good].sort_values(["size", "seconds"]).index[0]
