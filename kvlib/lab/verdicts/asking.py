"""Verdicts of 03_periodic_ask: whether a question changes the stream, and how much of the text on screen was read."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.text import Paragraph
from kvlib.lab.study.runs import token_measures
from kvlib.lab.video.lines import is_no_text
from kvlib.lab.video.subtitles import Subtitle

TTFT_LIMIT_S = 10  # seconds that the first token may take on average
LEAST_SHARE = 0.9  # of the subtitles, for C6 to C8
RECALL = "subtitle recall, on screen when asked"
PRECISION = "subtitle precision"
TIMED = "subtitles with both times within one ask interval"


@dataclass(frozen=True)
class Collected:
    """What a run has read. asks: the table of `kvlib.lab.study.runs.ask_periodically`. expected: the number of questions.
    subtitles: joined from the answers. lines: the unique ones of these."""

    asks: pd.DataFrame
    expected: int
    subtitles: Sequence[Subtitle]
    lines: Sequence[str]


@dataclass(frozen=True)
class Scores:
    """How well it was read. answers: the table of `kvlib.lab.study.scoring.summarise`. subtitles: that of
    `kvlib.lab.study.scoring.summarise_subtitles`."""

    answers: pd.DataFrame
    subtitles: pd.DataFrame


def judge(report: Report, collected: Collected, scores: Scores | None) -> None:
    """Record the criteria C1 to C8 and the measurements of notebook 03.

    scores: None for a video without subtitles beside it; then C6 to C8 are not judged, nor is one of them without a subtitle
    that it could be about. Raises ValueError when a criterion was recorded before.
    """
    _judge_questions(report, collected)
    _judge_subtitles(report, scores)
    for table in (scores.answers, scores.subtitles) if scores else ():
        for row in table.itertuples():
            report.measure(row.Index, row.value, n=row.n, interval=(row.low, row.high))
    for name, value, unit in token_measures(collected.asks):
        report.measure(name, value, unit=unit)


def conclude(report: Report, collected: Collected, scores: Scores | None) -> Paragraph:
    """Set the conclusion of the report and return it; scores as in `judge`."""
    asks = collected.asks
    quality = _quality(scores) if scores else "There are no subtitles to score the answers with."
    return report.conclude(
        f"{len(asks)} questions left the stream unchanged in {asks['unchanged'].mean():.0%} of cases and collected "
        f"{len(collected.lines)} unique lines in {len(collected.subtitles)} subtitles, with a mean time to first token of "
        f"{asks['ttft'].mean():.3f} s. {quality}"
    )


def _judge_questions(report: Report, collected: Collected) -> None:
    asks, expected, found = collected.asks, collected.expected, len(collected.lines)
    unchanged, with_text = asks["unchanged"], int((~asks["answer"].map(is_no_text)).sum())
    ttft = float(asks["ttft"].mean())
    report.check("C1", "every question was reached, no out of memory", f"{len(asks)} of {expected}", len(asks) == expected)
    report.check("C2", "every ask() left the cache bit-identical", f"{int(unchanged.sum())} of {len(asks)}", unchanged.all())
    report.check("C3", "some answers hold text", with_text, with_text > 0)
    report.check("C4", "unique lines found", found, found > 0)
    report.check("C5", f"mean time to first token < {TTFT_LIMIT_S} s", ttft, ttft < TTFT_LIMIT_S)


def _judge_subtitles(report: Report, scores: Scores | None) -> None:
    for id, name, description in (
        ("C6", RECALL, f"at least {LEAST_SHARE:.0%} of the subtitles on screen when asked were read"),
        ("C7", PRECISION, f"at least {LEAST_SHARE:.0%} of the subtitles read are true ones"),
        ("C8", TIMED, f"at least {LEAST_SHARE:.0%} of the true ones begin and end within one ask interval"),
    ):
        score = scores.subtitles.loc[name] if scores else None
        if score is None or not score["n"]:
            report.check(id, description, "no subtitles to compare with", None)
        else:
            report.check(id, description, f"{_share(score)}, n = {score['n']:.0f}", score["value"] >= LEAST_SHARE)


def _quality(scores: Scores) -> str:
    exact, recall, timed = scores.answers.loc["exact answers"], scores.subtitles.loc[RECALL], scores.subtitles.loc[TIMED]
    return (
        f"{_share(exact)} of the answers are exact (95% Wilson, n = {exact['n']:.0f}). "
        f"{_share(recall)} of the subtitles on screen when asked were read (n = {recall['n']:.0f}), "
        f"{_share(timed)} of them with times within one ask interval (n = {timed['n']:.0f})."
    )


def _share(score: pd.Series) -> str:
    return f"{score['value']:.0%} [{score['low']:.0%}, {score['high']:.0%}]"
