"""Verdicts of 02_oom_free: whether a stream stays within its budget and its memory, and how large the budget may be."""

from dataclasses import dataclass

import pandas as pd

from kvlib.lab.report.report import Report
from kvlib.lab.report.text import Paragraph
from kvlib.lab.study.budgets import Limit
from kvlib.lab.study.runs import OUT_OF_MEMORY, token_measures
from kvlib.lab.study.scoring import verdict_of
from kvlib.lab.video.calibration import Forecast


@dataclass(frozen=True)
class Streams:
    """The same video without and with eviction.

    unbounded, bounded: tables of `kvlib.lab.study.runs.stream_video`. total: chunks of the video. limit_bytes: the memory
    limit. held_bytes: taken before a stream begins. forecast: of a chunk, with the budget of `bounded`. chunk_s: measured
    seconds for a chunk of `bounded`, with decoding.
    """

    unbounded: pd.DataFrame
    bounded: pd.DataFrame
    total: int
    limit_bytes: int
    held_bytes: int
    forecast: Forecast
    chunk_s: float

    peak_bytes = property(lambda self: int(self.bounded["peak_bytes"].max()), doc="The most bytes of the run with eviction.")
    ended = property(
        lambda self: self.unbounded["event"].iloc[-1] == OUT_OF_MEMORY, doc="Whether memory ended without eviction."
    )


@dataclass(frozen=True)
class Asked:
    """The question at the end of the stream with eviction: its `answer`, `get_cache_info()` `before` and `after` it, and the
    true `title`, "" where the answer is not judged."""

    answer: str
    before: dict
    after: dict
    title: str

    stored = property(
        lambda self: self.after["tokens_seen"] - self.after["tokens_dropped"],
        doc="Tokens of all chunks, also of those that were evicted.",
    )


@dataclass(frozen=True)
class Shrunk:
    """The stream whose budget was lowered to `budget` tokens: `rows` of `kvlib.lab.study.runs.shrink_when_full`."""

    rows: pd.DataFrame
    budget: int

    later = property(
        lambda self: self.rows[self.rows["stage"] != "before shrink"],
        doc="The rows from `shrink()` on; none where neither the budget nor the memory became full.",
    )


def judge(report: Report, streams: Streams, asked: Asked, limit: Limit, shrunk: Shrunk) -> None:
    """Record the criteria P1 to P7 and the measurements of notebook 02. limit: of `kvlib.lab.study.budgets.find_limit`.

    Not judged: P3a and P3b where the video fits into the budget, P5c without a title and for one that was only misread, P6
    where nothing became full, P7 where the whole video fits into the memory. Raises ValueError when a criterion was recorded
    before.
    """
    _judge_budget(report, streams, asked)
    _judge_answer(report, asked)
    _judge_shrinking(report, streams, shrunk)
    overflows = streams.held_bytes + asked.stored * streams.forecast.token_bytes > streams.limit_bytes
    report.check(
        "P7",
        "without eviction memory ends before the video",
        f"chunk {len(streams.unbounded)} of {streams.total}",
        True if streams.ended else False if overflows else None,
    )
    _measure(report, streams, asked, limit)


def conclude(report: Report, streams: Streams, limit: Limit, shrunk: Shrunk) -> Paragraph:
    """Set the conclusion of the report and return it."""
    found = "No budget held. "
    if limit.budget:
        found = f"The largest budget that was filled and held is {limit.budget:,} tokens; 03_periodic_ask now uses it. "
    gone_on = ""
    if len(shrunk.later):
        last = shrunk.later["chunk"].iloc[-1] + 1
        gone_on = f" After shrink() to {shrunk.budget} tokens the stream went on to chunk {last}."
    return report.conclude(
        f"Without eviction memory {'ended at' if streams.ended else 'lasted to'} chunk {len(streams.unbounded)} of "
        f"{streams.total}; with a budget of {streams.forecast.budget} tokens {len(streams.bounded)} of {streams.total} chunks "
        f"ran in {streams.peak_bytes / 2**20:.1f} MiB. {found}What sets it: {limit.ended}.{gone_on}"
    )


def _judge_budget(report: Report, streams: Streams, asked: Asked) -> None:
    budget, length, stats = streams.forecast.budget, asked.after["cache_seq_length"], asked.after["eviction_stats"]
    done = len(streams.bounded)
    report.check("P1", "all chunks processed", f"{done} of {streams.total}", done == streams.total)
    report.check("P2", f"cache length <= {budget} at the end", length, length <= budget)
    evictions, evicted = stats["total_evictions"], stats["total_tokens_evicted"]
    full = asked.stored > budget  # a video that is shorter than the budget evicts nothing
    report.check("P3a", "evictions > 0", evictions, evictions > 0 if full else None)
    report.check("P3b", "evicted tokens > 0", evicted, evicted > 0 if full else None)
    cuda = streams.forecast.device.type == "cuda"
    kind = "allocated on the device" if cuda else "held by the cache (CPU: an explicit limit)"
    peak = streams.peak_bytes
    report.check("P4", f"peak bytes {kind} < {streams.limit_bytes}", peak, peak < streams.limit_bytes)


def _judge_answer(report: Report, asked: Asked) -> None:
    report.check("P5a", "ask() answers", asked.answer, bool(asked.answer))
    report.check("P5b", "ask() leaves the cache's length", asked.after["cache_seq_length"], asked.before == asked.after)
    report.check(
        "P5c",
        "the title, which is the subtitle of the first chunk, is answered exactly (judged for the embedded reader)",
        asked.answer if asked.title else "another model or question, or no subtitle in the first chunk",
        verdict_of(asked.answer, asked.title) if asked.title else None,
    )


def _judge_shrinking(report: Report, streams: Streams, shrunk: Shrunk) -> None:
    measured, passed = "neither budget nor memory became full", None
    if len(shrunk.later):
        measured = int(shrunk.later["cache_tokens"].max())
        within = measured <= shrunk.budget and shrunk.later["cache_bytes"].max() <= streams.limit_bytes
        passed = bool(within and shrunk.later["chunk"].iloc[-1] == streams.total - 1)
    report.check(
        "P6",
        f"after shrink() the stream goes on within the smaller budget of {shrunk.budget} tokens, the most stored",
        measured,
        passed,
    )


def _measure(report: Report, streams: Streams, asked: Asked, limit: Limit) -> None:
    forecast, window = streams.forecast, limit.tried.set_index("budget")["chunks_in_window"]
    report.measure("chunks remembered at the end", asked.after["chunks"])
    report.measure("largest budget that held", limit.budget, n=len(limit.tried), unit="tokens")
    report.measure("chunks in that window", int(window.get(limit.budget, 0)))
    report.measure("predicted for a chunk at the full budget", forecast.seconds, unit="s")
    report.measure("measured for a chunk, with decoding", streams.chunk_s, unit="s")
    report.measure("predicted bytes of keys and values at the full budget", forecast.budget_bytes, unit="bytes")
    report.measure("measured bytes of the cache, with its free room", asked.after["cache_bytes"], unit="bytes")
    for name, value, unit in token_measures(streams.bounded):
        report.measure(name, value, unit=unit)
