"""Verdicts of 05_policy_comparison: whether the comparison is fair, and which policy keeps the most."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.statistics import with_interval
from kvlib.lab.report.text import Paragraph
from kvlib.lab.study.runs import token_measures
from kvlib.lab.study.scoring import verdict_of
from kvlib.lab.study.statistics import ENOUGH, paired_difference

BF16_ROUNDING = 2**-8  # relative
LEAST_TITLES = 0.9  # exact answers to the question for the title, for S4
ASKED = ("now", "title", "history")
PLAIN = "sink_window"  # what the others are compared with


@dataclass(frozen=True)
class Results:
    """What was measured on synthetic streams. everything: the table of `kvlib.lab.study.retention.compare`. summary: that of
    `kvlib.lab.study.statistics.summarise` for the answers at `budget` tokens, by method. drift: that of
    `kvlib.lab.study.retention.drift`. streams, seed: those of the run."""

    everything: pd.DataFrame
    summary: pd.DataFrame
    drift: pd.DataFrame
    budget: int
    streams: int
    seed: int

    @cached_property
    def against(self) -> pd.DataFrame:
        """How much more of the backward questions each method answers than `sink_window` at the same budget."""
        answers = self.everything[self.everything["budget"] == self.budget]
        return paired_difference(answers, "method", PLAIN, self.seed)


@dataclass(frozen=True)
class OnVideo:
    """What was measured on a video. answers: the table of `kvlib.lab.study.retention.compare_on_video`. shares: [question,
    method, n, accuracy] of them. by_reader: whether the model is the embedded reader."""

    answers: pd.DataFrame
    shares: pd.DataFrame
    by_reader: bool

    titles_judged = property(lambda self: self.by_reader and "title" in set(self.shares["question"]), doc="For S4.")


def judge(report: Report, results: Results, on_video: OnVideo | None, predicted_s: float) -> None:
    """Record the criteria S1 to S4 and the measurements of notebook 05.

    on_video: None for a video without subtitles. S4 is not judged then, nor for another model than the reader, for a video
    without a title, and where so many titles are exact or only misread. predicted_s: for a chunk at the full budget. Raises
    ValueError when a criterion was recorded before.
    """
    _judge_fairness(report, results.everything)
    kept = results.drift[results.drift["method"] == "original"]["error"].max()
    report.check(
        "S3", "the error of keys after 10,000 rotations is at most one bf16 rounding (2^-8)", kept, bool(kept < BF16_ROUNDING)
    )
    _judge_titles(report, on_video)
    _measure(report, results)
    if on_video is not None:
        _measure_video(report, on_video)
    report.measure("predicted for a chunk at the full budget", predicted_s, unit="s")


def conclude(report: Report, results: Results) -> Paragraph:
    """Set the conclusion of the report and return it; with too few streams it names no best policy."""
    window, rival = results.summary.loc[PLAIN], results.summary.loc["last_n"]
    slower = f"{rival['ttft'] / window['ttft']:.0f} times as long to the first token"
    few = (
        f"{results.streams} streams are too few to tell which policy keeps more: that needs {ENOUGH}. figures/full_size"
        f" shows 200 streams; -p STREAMS 200 runs them. Prefilling the newest frames again (last_n) holds no bytes and takes "
        f"{slower} as sink_window."
    )
    return report.conclude(_ranking(results, slower) if results.streams >= ENOUGH else few)


def _judge_fairness(report: Report, everything: pd.DataFrame) -> None:
    bounded = everything[everything["method"] != "none"]
    fill = (bounded["cache_tokens"] / bounded["budget"]).max()
    asked = everything.groupby(["stream", "question", "age"])["truth"].agg(["size", "nunique"])
    same = bool(asked["nunique"].eq(1).all() and asked["size"].nunique() == 1)
    report.check("S1", "all methods were asked the same about the same streams, questions", len(asked), same)
    report.check("S2", "no method but none is over its budget, the largest share stored", fill, bool(fill <= 1))


def _judge_titles(report: Report, on_video: OnVideo | None) -> None:
    measured, passed = "another model, or no subtitle in the first chunk", None
    if on_video is not None and on_video.titles_judged:
        asked = on_video.answers[(on_video.answers["question"] == "title") & (on_video.answers["method"] == PLAIN)]
        found = [verdict_of(row.answer, row.truth) for row in asked.itertuples()]
        exact, misread, least = found.count(True), found.count(None), LEAST_TITLES * len(found)
        measured = f"{exact} of {len(found)} exact, {misread} misread"
        passed = True if exact >= least else None if exact + misread >= least else False
    report.check(
        "S4",
        f"on the video, sink_window answers at least {LEAST_TITLES:.0%} of the questions for the title exactly "
        "(judged for the embedded reader)",
        measured,
        passed,
    )


def _measure(report: Report, results: Results) -> None:
    for method, row in results.summary.iterrows():
        for question in ASKED:
            interval = row[f"{question}_low"], row[f"{question}_high"]
            report.measure(f"{question}, {method}", row[question], n=int(row[f"{question}_n"]), interval=interval)
    for method, row in results.against.drop(PLAIN).iterrows():
        report.measure(
            f"backward, {method} minus sink_window on the same streams",
            row["difference"],
            n=results.streams,
            interval=(row["low"], row["high"]),
        )


def _measure_video(report: Report, on_video: OnVideo) -> None:
    for row in on_video.shares.itertuples():
        report.measure(f"{row.question} on the video, {row.method}", row.accuracy, n=row.n)
    for method, rows in on_video.answers.groupby("method", sort=False):
        if method != "last_n":  # which has no cache
            for name, value, unit in token_measures(rows):
                report.measure(f"{name}, {method}", value, unit=unit)


def _ranking(results: Results, slower: str) -> str:
    """slower: how much longer `last_n` takes, in words."""
    summary = results.summary
    evicting, window, rival = summary.drop(["none", "last_n"]), summary.loc[PLAIN], summary.loc["last_n"]
    best = evicting["history"].idxmax()
    lead = results.against.loc[best]
    clear = "the interval lies above zero" if lead["low"] > 0 else "the interval does not exclude zero"
    wins = [question for question in ASKED if rival[question] >= evicting[question].max()]
    return (
        f"At {results.budget} tokens {best} keeps the most history of the evicting policies: "
        f"{evicting.loc[best, 'history']:.2f}, sink_window {window['history']:.2f}. Backward (title and history), on the same "
        f"streams, it leads sink_window by {with_interval(*lead, '+.2f')}; {clear}. "
        f"Prefilling the newest frames again (last_n) does at least as well as every policy on: "
        f"{', '.join(wins) or 'nothing'}; it holds no bytes and takes {slower}. n = {results.streams} streams."
    )
