"""Figures of the answers: which lines were read, how fast, and the share of exact answers with its 95% interval.

Every function takes plain DataFrames and numbers and returns a figure of `kvlib.lab.figures.style.new_figure`.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import (
    BLACK,
    GREY,
    INTERVAL,
    LIGHT_GREY,
    LIMIT,
    ONE_COLUMN,
    STYLE,
    TWO_COLUMNS,
    interval_bars,
    legend_below,
    looks_of,
    new_figure,
    plot_points,
    shares_axis,
)
from kvlib.lab.report.statistics import median_interval, wilson

ROW_SECONDS, MOST_ROWS = 40, 8  # of video in a row of `plot_line_timeline`, and rows; a longer video has longer rows
NUMBERED = 0.03  # of a row: a shorter part of a bar has no number, because it would not fit
OUTCOMES = {  # of a subtitle: how its bar is filled
    "found": {"facecolor": LIGHT_GREY, "edgecolor": BLACK, "linewidth": 0.5},
    "asked, not found": {"facecolor": "white", "edgecolor": BLACK, "linewidth": 0.5, "hatch": "////"},
    "never on screen when asked": {"facecolor": "white", "edgecolor": GREY, "linewidth": 0.8, "linestyle": ":"},
}
READ = {  # what was read, below the subtitles
    "read": {"facecolor": BLACK, "edgecolor": "white", "linewidth": 0.5},
    "read, in no subtitle": {"facecolor": "white", "edgecolor": BLACK, "linewidth": 0.5, "hatch": "xxxx"},
}


def plot_line_timeline(lines: pd.DataFrame, asks: pd.DataFrame) -> Figure:
    """03: the video in rows of equal length, with every subtitle by whether it was read, what was read, and the questions.

    A subtitle has its number in the table, from 1. The title gives the share of right answers with its 95% Wilson interval.

    Args:
        lines: `kvlib.lab.study.scoring.score_subtitles`, or `score_lines`, which has no times of what was read: `start_s`,
            `end_s`, `text`, `asked`, `found`, and for what was read `read_start_s`, `read_end_s`, `read_as`.
        asks: `kvlib.lab.study.scoring.score_answers`: `time_s`, `exact`.
    """
    ends = [lines[column].max() for column in ("end_s", "read_end_s") if column in lines]
    length_s = max(*ends, asks["time_s"].max(), 1) if len(asks) else max(*ends, 1)
    rows = min(max(math.ceil(length_s / ROW_SECONDS), 1), MOST_ROWS)
    seconds = max(ROW_SECONDS, math.ceil(length_s / rows))
    fig, axes = new_figure(TWO_COLUMNS, 1.5 + 0.95 * rows, nrows=rows, squeeze=False)
    with plt.rc_context(STYLE):
        entries = {}
        for row, axis in enumerate(axes[:, 0]):
            entries |= _draw_row(axis, lines, asks, row * seconds, seconds)
        right, n = int(asks["exact"].sum()), len(asks)
        if n:
            low, high = wilson(right, n)
            axes[0, 0].set_title(label(f"{right} of {n} answers right: {right / n:.0%} (95% Wilson {low:.0%} to {high:.0%})"))
        axes[-1, 0].set_xlabel(label("time (s)"))
        legend_below(fig, ncols=2, more=list(entries.values()))
    return fig


def plot_ttft(asks: pd.DataFrame, limit_s: float) -> Figure:
    """03: the distribution of the time to first token, with the median and its 95% interval.

    Args:
        asks: one row per question: `ttft`, in seconds.
        limit_s: the limit in seconds; it stands in the legend, because it lies far to the right of the values.
    """
    ttft_ms = asks["ttft"] * 1e3
    fig, axis = new_figure(ONE_COLUMN, 3.2)
    with plt.rc_context(STYLE):
        sns.ecdfplot(x=ttft_ms, ax=axis, color=BLACK)
        low, high = median_interval(ttft_ms)
        if not np.isnan(low):
            entry = label(f"95% interval {low:.3g} to {high:.3g} ms")
            axis.axvspan(low, high, color=LIGHT_GREY, linewidth=0, zorder=0, label=entry)
        axis.axvline(ttft_ms.median(), label=label(f"median {ttft_ms.median():.3g} ms (limit {limit_s:g} s)"), **LIMIT)
        axis.set(xlabel=label("time to first token (ms)"), ylabel=label(f"share of {len(ttft_ms)} questions"))
        axis.set(xlim=(0, None), ylim=(0, 1.02))
        legend_below(fig, ncols=1)
    return fig


def plot_accuracy_over_length(scores: pd.DataFrame, first_eviction: float | None = None) -> Figure:
    """04: share of exact answers over stream length, a panel per question, a point per position mode.

    Args:
        scores: one row per point: `question` (the panel's title), `position_mode`, `chunks` (stream length), `n`,
            `accuracy`, `low`, `high`.
        first_eviction: the stream length, in chunks, at the first eviction, if any; left of it the modes are the same.
    """
    fig, axes = _panels(scores, "question", 3.3, _shares_label(scores["low"], label("exact answers\n(95% Wilson intervals)")))
    lengths = sorted(scores["chunks"].unique())
    with plt.rc_context(STYLE):
        for axis, rows in axes:
            plot_points(axis, rows, "chunks", "position_mode")
            if first_eviction is not None:  # between the lengths before and after it
                place = np.searchsorted(lengths, first_eviction) - 0.5
                axis.axvline(place, label=label(f"first eviction, at chunk {first_eviction:g}"), **LIMIT)
            axis.set(xlabel=label("chunks streamed"))
        legend_below(fig, ncols=scores["position_mode"].nunique() + 1)
    return fig


def plot_strategies(summary: pd.DataFrame) -> Figure:
    """04: exact answers now and backward of each strategy, and its time per chunk.

    Args:
        summary: `kvlib.lab.study.retention.summarise`, by strategy, with `seconds` per chunk; the index holds the names.
    """
    fig, axes = new_figure(TWO_COLUMNS, 1.1 + 0.36 * len(summary), ncols=2, sharey=True, width_ratios=[2, 1])
    places, looks = np.arange(len(summary))[::-1], looks_of(("now", "backward"))
    with plt.rc_context(STYLE):
        for question, shift in (("now", 0.16), ("backward", -0.16)):
            bars = interval_bars(summary, question, f"{question}_low", f"{question}_high")
            name = label(f"{question} (n = {_span(summary[f'{question}_n'])})")
            axes[0].errorbar(summary[question], places + shift, xerr=bars, label=name, **looks[question] | INTERVAL)
        names = [label(name).replace(" + ", " +\n", 1) for name in summary.index]
        axes[0].set_yticks(places, names)
        shares = _shares_label(summary["backward_low"], label("exact answers (95% intervals)"))
        axes[0].set(xlabel=shares, xlim=(-0.04, 1.04))
        axes[0].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes[1].barh(places, 1e3 * summary["seconds"], color=GREY, height=0.6)
        axes[1].set(xlabel=label("time per chunk (ms)"), xlim=(0, None))
        axes[1].locator_params(axis="x", nbins=4)
        for axis in axes:
            axis.grid(axis="y", visible=False)
        legend_below(fig, ncols=2)
    return fig


def plot_retention(scores: pd.DataFrame) -> Figure:
    """05: share of exact answers about what was shown some chunks ago, at equal budget, a point per method.

    Args:
        scores: one row per point: `panel` (title), `contender` (the method), `age` (chunks since the line was on screen),
            `n`, `accuracy`, `low`, `high`.
    """
    fig, axes = _panels(scores, "panel", 4.2, _shares_label(scores["low"], label("exact answers\n(95% Wilson intervals)")))
    with plt.rc_context(STYLE):
        for axis, rows in axes:
            plot_points(axis, rows, "age", "contender")
            axis.set_xlabel(label("age (chunks since shown)"))
        legend_below(fig, ncols=3)
    return fig


def plot_budgets(scores: pd.DataFrame) -> Figure:
    """05: share of exact answers over the budget, a panel per question, a point per method.

    Args:
        scores: one row per point: `question` (the panel's title), `contender` (the method), `budget` (tokens), `n`,
            `accuracy`, `low`, `high`.
    """
    fig, axes = _panels(scores, "question", 3.3, _shares_label(scores["low"], label("exact answers\n(95% intervals)")))
    with plt.rc_context(STYLE):
        for axis, rows in axes:
            plot_points(axis, rows, "budget", "contender")
            axis.set_xlabel(label("budget (tokens)"))
        legend_below(fig, ncols=min(scores["contender"].nunique(), 3))
    return fig


def _shares_label(lower: pd.Series, named: str) -> str:
    """The label of an axis of shares: `named`, which tells of intervals, where one of the `lower` bounds is a number."""
    return named if lower.notna().any() else label("exact answers")


def _panels(scores: pd.DataFrame, by: str, height: float, upward: str) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with a panel for every value of the column `by`: each panel's axes, with title and n, and its rows.

    upward: the label of the axis of shares.
    """
    titles = list(scores[by].unique())
    fig, axes = new_figure(TWO_COLUMNS, height, ncols=len(titles), sharey=True, squeeze=False)
    parts = [(axis, scores[scores[by] == title]) for axis, title in zip(axes[0], titles, strict=True)]
    with plt.rc_context(STYLE):
        for axis, rows in parts:
            axis.set_title(label(f"{rows[by].iloc[0]}\n(n = {_span(rows['n'])})"))
            shares_axis(axis)
        axes[0][0].set_ylabel(upward)
    return fig, parts


def _draw_row(axis: Axes, lines: pd.DataFrame, asks: pd.DataFrame, start_s: float, seconds: float) -> dict[str, Patch]:
    """Draw `seconds` of the video from `start_s` on; return an entry of the legend for every kind of bar that there is."""
    entries = {}
    for name, (chosen, which) in _kinds(lines).items():
        look, rows = (OUTCOMES | READ)[name], lines[chosen]
        bottom, height = (0.55, 0.8) if name in OUTCOMES else (0.1, 0.35)
        starts, ends = rows[f"{which}start_s"], rows[f"{which}end_s"]
        axis.barh([bottom] * len(rows), ends - starts, left=starts, height=height, align="edge", **look)
        if len(rows):
            entries[name] = Patch(label=label(f"{name} ({len(rows)})"), **look)
        for number, begin, end in zip(lines.index.get_indexer(rows.index) + 1, starts, ends, strict=True):
            left, right = max(begin, start_s), min(end, start_s + seconds)  # the part that lies in this row
            if name in OUTCOMES and right - left >= NUMBERED * seconds:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5} if "hatch" in look else None
                axis.text((left + right) / 2, bottom + height / 2, f"{number}", ha="center", va="center_baseline", bbox=box)
    for name, chosen, marker in (("right answer", asks["exact"], "o"), ("wrong answer", ~asks["exact"], "x")):
        times = asks["time_s"][chosen]
        entry = label(f"{name} ({len(times)})")
        axis.plot(times, [1.75] * len(times), marker, color=BLACK, markersize=4, label=entry)
    axis.set(xlim=(start_s, start_s + seconds), ylim=(0, 2.1), yticks=[])
    axis.grid(visible=False)
    return entries


def _kinds(lines: pd.DataFrame) -> dict[str, tuple[pd.Series, str]]:
    """For every kind of bar: which of the `lines` it is drawn of, and what the columns of its times begin with."""
    known = lines["start_s"].notna()
    kinds = {
        "found": (lines["found"] & known, ""),
        "asked, not found": (lines["asked"] & ~lines["found"] & known, ""),
        "never on screen when asked": (known & ~lines["asked"] & ~lines["found"], ""),
    }
    if "read_as" in lines:
        kinds |= {"read": (lines["found"], "read_"), "read, in no subtitle": (~known, "read_")}
    return kinds


def _span(numbers: pd.Series) -> str:
    """The one number there is, or "smallest to largest"."""
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"
