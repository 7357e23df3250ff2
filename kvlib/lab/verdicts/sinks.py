"""Verdicts of 01_sink_detection: whether the first chunk is the sink, and which tokens are dropped."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.text import Paragraph

LEAST_SINK = 128  # tokens, above which every sink should be
MOST_APART = 10  # tokens between the recorded mean size of a chunk and the real one
DECIMALS = 9  # of a mean of token counts: the recorded one is a running mean, whose last digits are rounding errors


@dataclass(frozen=True)
class Results:
    """What was measured. increments, sinks: the tables of `kvlib.lab.study.runs.detect_sinks`. counts: that of
    `kvlib.lab.video.dropping.count_kept`. budget: tokens of every engine."""

    increments: pd.DataFrame
    sinks: pd.DataFrame
    counts: pd.DataFrame
    budget: int


def judge(report: Report, results: Results) -> None:
    """Record the criteria A1 to A7. A3 and A4 are not judged where a configuration had one chunk only.

    Raises ValueError when they were recorded before.
    """
    _judge_parts(report, results.sinks, results.budget)
    later = bool((results.increments.groupby("configuration")["chunk"].max() > 0).all())  # a very short video may be one chunk
    _judge_sizes(report, results.sinks, later)
    evictions, smallest = results.sinks["evictions"].sum(), int(results.sinks["sink_tokens"].min())
    report.check("A5", "nothing was evicted", int(evictions), evictions == 0)
    report.check("A6", f"every sink is above {LEAST_SINK} tokens, the smallest", smallest, smallest > LEAST_SINK)
    _judge_dropping(report, results.counts)


def conclude(report: Report, results: Results) -> Paragraph:
    """Set the conclusion of the report and return it."""
    sinks, counts = results.sinks["sink_tokens"], results.counts
    found = int((sinks == results.sinks["first_length"]).sum())
    most = counts.loc[counts["dropped_share"].idxmax()]
    whole = counts[(counts["chunk_frames"] == most["chunk_frames"]) & (counts["drop_static"] == 0)].iloc[0]
    return report.conclude(
        f"The sink is the whole first chunk in {found} of {len(sinks)} configurations; it spans {sinks.min()} to "
        f"{sinks.max()} tokens over {sinks.nunique()} values, so no constant fits all of them. "
        f"drop_static drops at most {most['dropped_share']:.0%} of the tokens, in chunks of {most['chunk_frames']:.0f} frames "
        f"at threshold {most['drop_static']:g}: {most['tokens_per_s']:.1f} tokens a second of video are left of "
        f"{whole['tokens_per_s']:.1f}."
    )


def _judge_parts(report: Report, sinks: pd.DataFrame, budget: int) -> None:
    sink, window = sinks["sink_tokens"], sinks["window_tokens"]
    report.check("A1", "sink = cache length after chunk 0", sink.tolist(), (sink == sinks["first_length"]).all())
    report.check("A2", "window = max_cache_tokens - sink", window.tolist(), (window == budget - sink).all())


def _judge_sizes(report: Report, sinks: pd.DataFrame, later: bool) -> None:
    """later: every configuration had a chunk behind the first one."""
    apart = float(np.round((sinks["mean_recorded"] - sinks["mean_real"]).abs().max(), DECIMALS))
    report.check(
        "A3",
        f"recorded mean chunk size within {MOST_APART} tokens of the real increments",
        apart,
        apart <= MOST_APART if later else None,
    )
    by_size = sinks.groupby("chunk_frames")["sink_tokens"].agg(set)
    differ = sinks.groupby("height")["sink_tokens"].nunique() == len(by_size)
    report.check(
        "A4",
        "other chunk sizes give other sinks at every height",
        {int(size): sorted(found) for size, found in by_size.items()},
        differ.all() if later else None,
    )


def _judge_dropping(report: Report, counts: pd.DataFrame) -> None:
    wrongly = int(counts["dropped_of_first"].sum() + counts.loc[counts["drop_static"] == 0, "dropped"].sum())
    report.check(
        "A7", "no token is dropped at threshold 0, and none of the first temporal grid of a chunk", wrongly, wrongly == 0
    )
