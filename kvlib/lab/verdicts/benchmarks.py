"""Verdicts of 07_public_benchmarks: whether a video streamed once answers as its prefixes do, and what recall adds."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.statistics import with_interval
from kvlib.lab.report.text import Paragraph
from kvlib.lab.study.statistics import ENOUGH, paired_difference

PLAIN = "window, remap"  # the method that recall is compared with
BACKWARD, PRESENT = "backward", "real-time"


@dataclass(frozen=True)
class Results:
    """What was measured. rows, modes: the tables of `kvlib.lab.benchmarks.results.compared`, of answers and of scores by mode.
    alone: that of `kvlib.lab.benchmarks.runs.compare_alone`, None for runs of `kvlib benchmark`, whose methods are any.
    benchmark: its name. seed: of the bootstrap."""

    rows: pd.DataFrame
    modes: pd.DataFrame
    alone: pd.DataFrame | None
    benchmark: str
    seed: int

    @cached_property
    def answered(self) -> pd.DataFrame:
        return self.rows[self.rows["right"].notna()]

    @cached_property
    def methods(self) -> list[str]:
        return list(self.rows["method"].unique())

    videos = property(lambda self: self.rows["video"].nunique(), doc="How many videos there are.")
    enough = property(lambda self: self.videos >= ENOUGH, doc="Whether there are enough to conclude from.")

    @property
    def exact(self) -> str:
        """How many answers equal those of new streams, in words."""
        return "not measured with TABLES" if self.alone is None else f"{self.alone['same'].sum()} of {len(self.alone)}"

    def gain(self, mode: str) -> pd.Series:
        """How much more of a mode's questions the last method answers than `PLAIN`, by video: difference, low, high."""
        known = self.answered.assign(
            stream=self.answered["video"], question=self.answered["mode"], correct=self.answered["right"].astype(int)
        )
        return paired_difference(known, "method", PLAIN, self.seed, (mode,)).loc[self.methods[-1]]


def judge(report: Report, results: Results) -> None:
    """Record the criteria B1 to B5 and the measurements of notebook 07.

    B1 is not judged for runs of `kvlib benchmark`, and these have no B4 and B5, which are not judged with few videos. Raises
    ValueError when a criterion was recorded before.
    """
    alone, answered, rows = results.alone, results.answered, results.rows
    report.check(
        "B1",
        "answers of a video streamed once that equal those of new streams fed the prefix alone",
        results.exact,
        None if alone is None else bool(alone["same"].all()),
    )
    report.check(
        "B2",
        "questions with an answer; the others are listed above",
        f"{len(answered):,} of {len(rows):,}",
        True if len(answered) == len(rows) else None,
    )
    within = answered["tokens_stored"] <= answered["budget"]
    report.check("B3", "answers from a stream within its budget", f"{within.sum():,} of {len(within):,}", bool(within.all()))
    if alone is not None:
        _judge_recall(report, results)
    for score in results.modes.to_dict("records"):
        interval = score["low"], score["high"]
        report.measure(f"{score['mode']}, {score['method']}", score["score"], n=score["n"], interval=interval)
    for method, table in answered.groupby("method", sort=False):
        report.measure(f"answers after an eviction, {method}", float((table["evictions"] > 0).mean()), n=len(table))


def conclude(report: Report, results: Results) -> Paragraph:
    """Set the conclusion of the report and return it."""
    means = results.modes.set_index(["method", "mode"])["score"]
    scores = [
        f"{method}: " + ", ".join(f"{mode} {means[method, mode]:.3f}" for mode in means[method].index)
        for method in results.methods
    ]
    few = "" if results.enough else f" {results.videos} videos are too few to tell."
    return report.conclude(
        f"{results.benchmark}, {len(results.rows) // len(results.methods):,} questions about {results.videos} videos, every "
        f"video streamed once: {'; '.join(scores)}. As new streams fed the prefix alone: {results.exact}.{few}"
    )


def _judge_recall(report: Report, results: Results) -> None:
    past, present = results.gain(BACKWARD), results.gain(PRESENT)
    few = "" if results.enough else ", too few to tell"

    def said(gain: pd.Series) -> str:
        return f"{with_interval(*gain, '+.3f')}, {results.videos} videos{few}"

    report.check(
        "B4",
        "backward, recall minus window on the same videos: the interval lies above 0",
        said(past),
        bool(past["low"] > 0) if results.enough else None,
    )
    report.check(
        "B5",
        "real-time, recall minus window on the same videos: the interval includes 0 or lies above it",
        said(present),
        bool(present["high"] >= 0) if results.enough else None,
    )
