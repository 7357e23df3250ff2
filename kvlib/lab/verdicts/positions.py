"""Verdicts of 04_position_remap: whether the position gap costs answers, and which strategy is worth its cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.statistics import with_interval
from kvlib.lab.report.text import Paragraph
from kvlib.lab.study.statistics import ENOUGH, SHARE, recommend

GAP = "the position gap"  # how the reason of an answer begins that the same tokens at contiguous positions make right
LEAST_REPAIRED = 0.9  # of the lost titles, for D3
ASKED = 4  # answers for each stream and length: title and current line, in two position modes


@dataclass(frozen=True)
class Size:
    """How much was run. streams: for the modes, each asked after every number of chunks in `lengths`. strategy_streams: for
    causes and strategies, of `chunks` chunks each."""

    streams: int
    strategy_streams: int
    lengths: Sequence[int]
    chunks: int

    modes_enough = property(lambda self: self.streams >= ENOUGH, doc="Whether there are enough to conclude on the modes.")
    strategies_enough = property(lambda self: self.strategy_streams >= ENOUGH, doc="The same for causes and strategies.")
    enough = property(lambda self: self.modes_enough and self.strategies_enough, doc="Whether both are enough.")


@dataclass(frozen=True)
class Tables:
    """What was measured. answers: of `kvlib.lab.study.retention.accuracy_over_length`, with the modes "keep" and "remap".
    scores: of `count_by_stream` for these, by question, position_mode and chunks. errors: of `attribute_errors`. tried: of
    `try_strategies`. summary: of `kvlib.lab.study.statistics.summarise` for these, by strategy."""

    answers: pd.DataFrame
    scores: pd.DataFrame
    errors: pd.DataFrame
    tried: pd.DataFrame
    summary: pd.DataFrame

    def titles(self, size: Size) -> tuple[pd.Series, pd.Series]:
        """The scores of the titles after the longest streams: (keep, remap)."""
        longest = self.scores[self.scores["chunks"] == max(size.lengths)].set_index(["question", "position_mode"])
        return longest.loc[("title", "keep")], longest.loc[("title", "remap")]


def judge(report: Report, tables: Tables, size: Size, predicted_s: float) -> None:
    """Record the criteria D1 to D4 and the measurements of notebook 04. predicted_s: for a chunk at the full budget.

    D2 and D3 are not judged with too few streams of their own, D2 where the two intervals overlap, D3 where no title was lost.
    Raises ValueError when a criterion was recorded before.
    """
    expected = ASKED * size.streams * len(size.lengths)
    report.check("D1", "both modes answered every question", len(tables.answers), len(tables.answers) == expected)
    _judge_remap(report, tables, size)
    _judge_causes(report, tables.errors, size)
    fill = tables.tried["fill"].max()
    report.check("D4", "no cache was over its budget, the largest share stored", fill, bool(fill <= 1))
    _measure(report, tables)
    report.measure("predicted for a chunk at the full budget", predicted_s, unit="s")


def conclude(report: Report, tables: Tables, size: Size) -> Paragraph:
    """Set the conclusion of the report and return it; with too few streams it recommends nothing."""
    keep, remap = tables.titles(size)
    wrong = (~tables.errors["correct"]).sum()
    found = (
        f"After {max(size.lengths)} chunks keep answers {keep['correct']:.0f} of {keep['n']:.0f} titles, remap "
        f"{remap['correct']:.0f} of {remap['n']:.0f}. Of {wrong} wrong answers of keep after {size.chunks} chunks, "
        f"{_due_to_gap(tables.errors)} are due to the gap. "
    )
    few = (
        f"Too few to tell: conclusions and a recommendation need {ENOUGH} streams. figures/full_size shows "
        "larger runs; -p STREAMS 200 -p STRATEGY_STREAMS 100 makes another."
    )
    return report.conclude(found + (_advice(tables, keep, remap) if size.enough else few))


def _judge_remap(report: Report, tables: Tables, size: Size) -> None:
    keep, remap = tables.titles(size)
    better, worse = keep["high"] < remap["low"], remap["high"] < keep["low"]
    report.check(
        "D2",
        f"title after {max(size.lengths)} chunks: remap above keep, intervals apart",
        f"remap {remap['accuracy']:.2f}, keep {keep['accuracy']:.2f}, n = {int(keep['n'])} each{_few(size.modes_enough)}",
        bool(better) if size.modes_enough and (better or worse) else None,
    )


def _judge_causes(report: Report, errors: pd.DataFrame, size: Size) -> None:
    lost = errors[(errors["question"] == "title") & ~errors["correct"]]
    repaired = _due_to_gap(lost)
    report.check(
        "D3",
        f"titles that keep lost and that the same tokens at contiguous positions bring back: at least {LEAST_REPAIRED:.0%}",
        f"{repaired} of {len(lost)}{_few(size.strategies_enough)}",
        bool(repaired >= LEAST_REPAIRED * len(lost)) if size.strategies_enough and len(lost) else None,
    )


def _few(enough: bool) -> str:
    """What a measured value says of the number of streams."""
    return "" if enough else ", too few to tell"


def _due_to_gap(errors: pd.DataFrame) -> int:
    return errors["reason"].str.startswith(GAP).sum()


def _measure(report: Report, tables: Tables) -> None:
    for row in tables.scores.itertuples():
        name = f"{row.question}, {row.position_mode}, {row.chunks} chunks"
        report.measure(name, row.accuracy, n=row.n, interval=(row.low, row.high))
    for strategy, row in tables.summary.iterrows():
        for question in ("now", "backward"):
            interval = row[f"{question}_low"], row[f"{question}_high"]
            report.measure(f"{question}, {strategy}", row[question], n=int(row[f"{question}_n"]), interval=interval)
        report.measure(f"cache at most, {strategy}", row["cache_bytes"], unit="bytes")
        report.measure(f"processing and asking per chunk, {strategy}", row["seconds"], unit="s")


def _advice(tables: Tables, keep: pd.Series, remap: pd.Series) -> str:
    chosen = recommend(tables.summary, "keep")
    best, plain = tables.summary.loc[chosen], tables.summary.loc["keep"]
    return (
        f"{'The gap costs the title' if keep['high'] < remap['low'] else 'No cost of the gap is shown'}: keep "
        f"{with_interval(*keep[SHARE])}, remap {with_interval(*remap[SHARE])}. The cheapest strategy within the "
        f"interval of the best, now and backward, is {chosen}: now {best['now']:.2f}, backward {best['backward']:.2f}; keep: "
        f"now {plain['now']:.2f}, backward {plain['backward']:.2f}."
    )
