"""Verdicts of 06_recall: whether a question can bring back what was evicted, and what that costs."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.statistics import with_interval
from kvlib.lab.report.text import Paragraph
from kvlib.lab.study.recall.comparison import NEVER, RANDOM, TRUE, WITH
from kvlib.lab.study.recall.tables import OLD, old_cards
from kvlib.lab.study.statistics import ENOUGH, SHARE, count_by_stream, paired_difference

JUDGED, PLAIN = "recall 2", "remap"  # the way that is judged, and the method without recall that it is compared with
LEAST_CARDS = 0.90  # exact answers about old cards, for R1
LEAST_NEVER = 0.97  # answers that a card was never shown, for R4
MOST_LOST = 0.03  # by the ranking, against recalling the true chunk, for R2


@dataclass(frozen=True)
class Size:
    """How much was run: `streams` of `chunks` chunks and `long_streams` of `long_chunks`, at `budget` tokens, with `seed`."""

    streams: int
    chunks: int
    long_streams: int
    long_chunks: int
    budget: int
    seed: int

    enough = property(
        lambda self: min(self.streams, self.long_streams) >= ENOUGH, doc="Whether there are enough to conclude from."
    )
    drawn = property(
        lambda self: f"{self.streams} streams of {self.chunks} chunks and {self.long_streams} of {self.long_chunks}",
        doc="The streams in words.",
    )

    def measured(self, interval: Iterable[float], n: int) -> str:
        """A value with its interval (value, low, high), of so many answers, in words."""
        few = "" if self.enough else "too few to tell, "
        return f"{with_interval(*interval, '.3f')}, n = {n} answers, {few}{self.drawn}"


@dataclass(frozen=True)
class Results:
    """What was measured. answers, rankings: the tables of `kvlib.lab.study.recall.comparison.compare_recall`. said,
    same_stream: what `kvlib.lab.study.recall.resuming.save_and_resume` returns."""

    answers: pd.DataFrame
    rankings: pd.DataFrame
    said: pd.DataFrame
    same_stream: bool
    size: Size

    @cached_property
    def cards(self) -> pd.DataFrame:
        """The answers about cards that were certainly evicted."""
        return old_cards(self.answers[self.answers["question"] == "history"])

    @cached_property
    def scored(self) -> pd.DataFrame:
        """The table of `count_by_stream` with the index (question, method), without the cards that may not be evicted."""
        counted = count_by_stream(old_cards(self.answers), ["question", "method"], self.size.seed)
        return counted.set_index(["question", "method"])

    @cached_property
    def against_true(self) -> pd.DataFrame:
        """About old cards, how much better each method is than recalling the chunk that holds the answer."""
        return paired_difference(self.cards, "method", TRUE, self.size.seed)

    @cached_property
    def ranks(self) -> pd.Series:
        """The rank of the right chunk in each question for an evicted card; 1 is the first."""
        return self.rankings.loc[(self.rankings["question"] == "history") & self.rankings["found"], "rank"]


def judge(report: Report, results: Results) -> None:
    """Record the criteria R1 to R7 and the measurements of notebook 06.

    All but R5 and R7 are not judged with too few streams. Raises ValueError when a criterion was recorded before.
    """
    _judge_cards(report, results)
    _judge_other_questions(report, results)
    _judge_stream(report, results.answers)
    _judge_control(report, results)
    _judge_resuming(report, results)
    _measure(report, results)


def conclude(report: Report, results: Results) -> Paragraph:
    """Set the conclusion of the report and return it."""
    size, difference = results.size, results.against_true.loc[JUDGED]
    recalled, without, random = (results.scored.loc[("history", method)] for method in (JUDGED, PLAIN, RANDOM))
    ttft, first = results.answers.groupby("method")["ttft"].median(), int((results.ranks == 1).sum())
    few = (
        ""
        if size.enough
        else (
            f" Too few to tell: that needs {ENOUGH} streams of each length. figures/full_size shows more; "
            "-p STREAMS 50 -p LONG_STREAMS 30 makes another."
        )
    )
    return report.conclude(
        f"At {size.budget} tokens in all, recall 2 answers {with_interval(*recalled[SHARE], '.3f')} of the questions about "
        f"cards at least {OLD} chunks old, remap without recall {without['accuracy']:.3f}, random chunks "
        f"{random['accuracy']:.3f}; minus the true chunk {with_interval(*difference, '+.3f')}. The ranking puts the right card "
        f"first in {first} of {len(results.ranks)} questions. The first token takes {1e3 * ttft[JUDGED]:.0f} ms instead "
        f"of {1e3 * ttft[PLAIN]:.0f} ms. {size.drawn}.{few}"
    )


def _judge_cards(report: Report, results: Results) -> None:
    size, recalled, difference = results.size, results.scored.loc[("history", JUDGED)], results.against_true.loc[JUDGED]
    report.check(
        "R1",
        f"recall 2, cards at least {OLD} chunks old: at least {LEAST_CARDS:.2f}",
        size.measured(recalled[SHARE], int(recalled["n"])),
        bool(recalled["accuracy"] >= LEAST_CARDS) if size.enough else None,
    )
    report.check(
        "R2",
        f"recall 2 minus true chunk on the same streams: the interval lies above -{MOST_LOST:.2f}",
        size.measured(difference, len(results.cards) // results.cards["method"].nunique()),
        bool(difference["low"] > -MOST_LOST) if size.enough else None,
    )


def _judge_other_questions(report: Report, results: Results) -> None:
    size, scored = results.size, results.scored
    difference = paired_difference(results.answers, "method", PLAIN, size.seed, ("now", "title")).loc[JUDGED]
    never, without = scored.loc[(NEVER, JUDGED)], scored.loc[(NEVER, PLAIN)]
    report.check(
        "R3",
        "now and title, recall 2 minus remap on the same streams: the interval includes 0 or lies above it",
        size.measured(difference, int(scored.loc[("now", JUDGED), "n"] + scored.loc[("title", JUDGED), "n"])),
        bool(difference["high"] >= 0) if size.enough else None,
    )
    report.check(
        "R4",
        f"recall 2, a card that was never shown: at least {LEAST_NEVER:.2f} say so (remap: {without['accuracy']:.3f})",
        size.measured(never[SHARE], int(never["n"])),
        bool(never["accuracy"] >= LEAST_NEVER) if size.enough else None,
    )


def _judge_stream(report: Report, answers: pd.DataFrame) -> None:
    unchanged = answers.loc[answers["method"].isin(WITH), "unchanged"]
    report.check(
        "R5",
        "questions with recall after which the stream's fingerprint is as before",
        f"{unchanged.sum():,} of {len(unchanged):,}",
        bool(unchanged.all()),
    )


def _judge_control(report: Report, results: Results) -> None:
    gain = paired_difference(results.cards, "method", PLAIN, results.size.seed).loc[RANDOM]
    report.check(
        "R6",
        "random chunks do not help, cards, random minus remap on the same streams: the interval includes 0 or lies below it",
        results.size.measured(gain, int(results.scored.loc[("history", RANDOM), "n"])),
        bool(gain["low"] <= 0) if results.size.enough else None,
    )


def _judge_resuming(report: Report, results: Results) -> None:
    same_answers = results.said["undisturbed"].equals(results.said["resumed"])
    report.check(
        "R7",
        "a resumed stream has the fingerprint and the answers of an undisturbed one",
        f"fingerprint {'equal' if results.same_stream else 'different'}, answers {'equal' if same_answers else 'different'}",
        results.same_stream and same_answers,
    )


def _measure(report: Report, results: Results) -> None:
    for (question, method), row in results.scored.iterrows():
        name = f"cards at least {OLD} chunks old" if question == "history" else question
        report.measure(f"{name}, {method}", row["accuracy"], n=int(row["n"]), interval=(row["low"], row["high"]))
    first, asked = int((results.ranks == 1).sum()), len(results.ranks)
    report.measure("evicted cards ranked first", first / asked if asked else float("nan"), n=asked)
    for method, seconds in results.answers.groupby("method", sort=False)["ttft"].median().items():
        report.measure(f"time to first token, {method}", seconds, unit="s")
