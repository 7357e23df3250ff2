"""Figures of the answers: which lines were read, how fast, and the share of exact answers with its 95% interval.

Every function takes plain DataFrames and numbers and returns a figure of `kvlib.lab.figures.style.new_figure`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kvlib.lab.figures.labels import label, literal
from kvlib.lab.figures.style import (
    BLUE,
    LIGHT_GREY,
    LIMIT,
    ONE_COLUMN,
    RED,
    SERIES,
    STYLE,
    TWO_COLUMNS,
    legend_below,
    line_styles,
    new_figure,
)
from kvlib.lab.report.statistics import wilson


def plot_line_timeline(lines: pd.DataFrame, asks: pd.DataFrame) -> Figure:
    """03: every subtitle over time by whether it was read, what was read as a thin bar, and the moments of the questions.

    The title gives the share of right answers with its 95% Wilson interval.

    Args:
        lines: `kvlib.lab.study.scoring.score_subtitles`, or `score_lines`, which has no times of what was read: `start_s`,
            `end_s`, `text`, `asked`, `found`, and for what was read `read_start_s`, `read_end_s`, `read_as`.
        asks: `kvlib.lab.study.scoring.score_answers`: `time_s`, `exact`.
    """
    fig, axis = new_figure(TWO_COLUMNS, 1.2 + 0.13 * len(lines))
    with plt.rc_context(STYLE):
        bars = _draw_lines(axis, lines)
        for row, name, chosen, marker in ((-2, "right answer", asks["exact"], "o"), (-1, "wrong answer", ~asks["exact"], "x")):
            times = asks["time_s"][chosen]
            entry = label(f"{name} ({len(times)})")
            axis.plot(times, [row] * len(times), marker, color="black", markersize=3, label=entry)
        for time_s in asks["time_s"]:
            axis.axvline(time_s, color="#DDDDDD", linewidth=0.3, zorder=0)
        right, n = int(asks["exact"].sum()), len(asks)
        low, high = wilson(right, n)
        axis.set_title(label(f"{right} of {n} answers right: {right / n:.0%} (95% Wilson {low:.0%} to {high:.0%})"))
        texts = lines["text"].fillna(lines["read_as"]) if "read_as" in lines else lines["text"]
        axis.set_yticks(range(len(lines)), [literal(shorten(text)) for text in texts], fontsize=5)
        axis.set(xlabel=label("time (s)"), ylim=(len(lines), -3))
        axis.grid(visible=False)
        legend_below(fig, ncols=3, more=bars)
    return fig


def plot_ttft(asks: pd.DataFrame, limit_s: float) -> Figure:
    """03: the distribution of the time to first token.

    Args:
        asks: one row per question: `ttft`, in seconds.
        limit_s: the limit in seconds; it stands in the legend, because it lies far to the right of the values.
    """
    ttft_s = asks["ttft"]
    fig, axis = new_figure(ONE_COLUMN, 2.4)
    with plt.rc_context(STYLE):
        sns.ecdfplot(x=ttft_s * 1e3, ax=axis, color=BLUE)
        median = ttft_s.median() * 1e3
        axis.axvline(median, label=label(f"median {median:.3g} ms (limit {limit_s:g} s)"), **LIMIT)
        axis.set(xlabel=label("time to first token (ms)"), ylabel=label(f"share of {len(ttft_s)} questions"), ylim=(0, 1.02))
        legend_below(fig, ncols=1)
    return fig


def plot_accuracy_over_length(scores: pd.DataFrame, first_eviction: float | None = None) -> Figure:
    """04: share of exact answers over stream length, a panel per question, a line per position mode.

    Args:
        scores: one row per point: `question` (the panel's title), `position_mode`, `chunks` (stream length), `n`,
            `accuracy`, `low`, `high`.
        first_eviction: the stream length, in chunks, at the first eviction, if any; left of it the modes are the same.
    """
    questions = list(scores["question"].unique())
    fig, axes = new_figure(TWO_COLUMNS, 2.6, ncols=len(questions), sharey=True, squeeze=False)
    modes = list(scores["position_mode"].unique())
    apart = 0.012 * scores["chunks"].max()  # so that lines of equal values do not hide each other
    with plt.rc_context(STYLE):
        for axis, question in zip(axes[0], questions, strict=True):
            for i, (style, mode) in enumerate(zip(SERIES, modes, strict=False)):
                chosen = (scores["question"] == question) & (scores["position_mode"] == mode)
                rows = scores[chosen].sort_values("chunks")
                _plot_shares(axis, rows["chunks"] + apart * (i - (len(modes) - 1) / 2), rows, mode, style)
            if first_eviction is not None:
                axis.axvline(first_eviction, label=label("first eviction"), **LIMIT)
            axis.set(xlabel=label("chunks streamed"), title=label(question), ylim=(-0.03, 1.03))
        axes[0][0].set_ylabel(_share_label(scores))
        legend_below(fig, ncols=len(modes) + 1)
    return fig


def plot_strategies(summary: pd.DataFrame) -> Figure:
    """04: exact answers now and backward of each strategy, and its time per chunk.

    Args:
        summary: `kvlib.lab.study.retention.summarise`, by strategy, with `seconds` per chunk; the index holds the names.
    """
    fig, axes = new_figure(TWO_COLUMNS, 0.9 + 0.24 * len(summary), ncols=2, sharey=True, width_ratios=[2, 1])
    places = np.arange(len(summary))[::-1]
    with plt.rc_context(STYLE):
        for question, style, shift in (("now", SERIES[1], 0.14), ("backward", SERIES[0], -0.14)):
            share = summary[question]
            bars = _bars(share, summary[f"{question}_low"], summary[f"{question}_high"])
            name = label(f"{question} (n = {_span(summary[f'{question}_n'])})")
            look = style | {"linestyle": "", "capsize": 2, "elinewidth": 0.7}
            axes[0].errorbar(share, places + shift, xerr=bars, label=name, **look)
        axes[0].set_yticks(places, summary.index.map(label))
        axes[0].set(xlabel=label("exact answers (95% intervals)"), xlim=(-0.03, 1.03))
        axes[1].barh(places, 1e3 * summary["seconds"], color=BLUE)
        axes[1].set(xlabel=label("time per chunk (ms)"))
        for axis in axes:
            axis.grid(axis="y", visible=False)
        legend_below(fig, ncols=2)
    return fig


def plot_retention(scores: pd.DataFrame) -> Figure:
    """05: share of exact answers about what was shown some chunks ago, at equal budget, a line per method.

    Args:
        scores: one row per point: `panel` (title), `contender` (the method), `age` (chunks since the line was on screen),
            `n`, `accuracy`, `low`, `high`.
    """
    panels = list(scores["panel"].unique())
    fig, axes = new_figure(TWO_COLUMNS, 3.0, ncols=len(panels), sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for axis, panel in zip(axes[0], panels, strict=True):
            _plot_methods(axis, scores[scores["panel"] == panel], "age")
            axis.set(xlabel=label("age: chunks since it was on screen"), title=label(panel))
            axis.legend()
        axes[0][0].set_ylabel(_share_label(scores))
    return fig


def plot_budgets(scores: pd.DataFrame) -> Figure:
    """05: share of exact answers over the budget, a panel per question, a line per method.

    Args:
        scores: one row per point: `question` (the panel's title), `contender` (the method), `budget` (tokens), `n`,
            `accuracy`, `low`, `high`.
    """
    questions = list(scores["question"].unique())
    fig, axes = new_figure(TWO_COLUMNS, 2.6, ncols=len(questions), sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for axis, question in zip(axes[0], questions, strict=True):
            _plot_methods(axis, scores[scores["question"] == question], "budget")
            axis.set(xlabel=label("budget (tokens)"), title=label(question))
        axes[0][0].set_ylabel(_share_label(scores))
        legend_below(fig, ncols=scores["contender"].nunique())
    return fig


def shorten(text: str, length: int = 40) -> str:
    """`text` on one line, cut to at most `length` characters with an ellipsis."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _draw_lines(axis: Axes, lines: pd.DataFrame) -> list[Patch]:
    """Draw a bar for every subtitle and every text that was read over its time; return the legend's entries."""
    known = lines["start_s"].notna()
    kinds = [
        ("found", lines["found"], "", 0.7, {"facecolor": BLUE}),
        ("asked, not found", lines["asked"] & ~lines["found"], "", 0.7, {"facecolor": RED, "hatch": "////"}),
        ("never on screen when asked", known & ~lines["asked"] & ~lines["found"], "", 0.7, {"facecolor": LIGHT_GREY}),
    ]
    if "read_as" in lines:
        kinds += [
            ("read", lines["found"], "read_", 0.2, {"facecolor": "black"}),
            ("read, in no subtitle", ~known, "read_", 0.7, {"facecolor": "black", "hatch": "...."}),
        ]
    entries = []
    for name, chosen, which, height, look in kinds:
        rows = lines[chosen]
        places = [lines.index.get_loc(i) for i in rows.index]
        start_s, end_s = rows[f"{which}start_s"], rows[f"{which}end_s"]
        look |= {"edgecolor": "white", "linewidth": 0}  # the edge colours the hatch
        axis.barh(places, end_s - start_s, left=start_s, height=height, **look)
        if len(rows):
            entries.append(Patch(label=label(f"{name} ({len(rows)})"), **look))
    return entries


def _plot_methods(axis: Axes, scores: pd.DataFrame, over: str) -> None:
    """Draw a line with intervals for every method over the column `over`, on a logarithmic scale.

    The lines stand a little apart, so that equal values do not hide each other.
    """
    names, values = list(scores["contender"].unique()), sorted(scores[over].unique())
    for i, (style, name) in enumerate(zip(line_styles(), names, strict=False)):
        rows = scores[scores["contender"] == name].sort_values(over)
        _plot_shares(axis, rows[over] * 1.04 ** (i - (len(names) - 1) / 2), rows, name, style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [f"{value:,}" for value in values])
    axis.minorticks_off()
    axis.set_ylim(-0.03, 1.03)


def _plot_shares(axis: Axes, at: pd.Series, rows: pd.DataFrame, name: str, style: dict) -> None:
    """Draw `accuracy` of `rows` with its interval, `low` to `high`, at the places `at`, as the line `name`."""
    share = rows["accuracy"]
    bars = _bars(share, rows["low"], rows["high"])
    axis.errorbar(at, share, yerr=bars, label=label(name), capsize=2, elinewidth=0.7, **style)


def _bars(share: pd.Series, low: pd.Series, high: pd.Series) -> list[pd.Series]:
    """The lengths of error bars. Rounding puts some bounds past 0 and 1; matplotlib refuses the negative lengths."""
    return [(share - low).clip(lower=0), (high - share).clip(lower=0)]


def _share_label(scores: pd.DataFrame) -> str:
    return label(f"exact answers\n(n = {_span(scores['n'])}, 95% intervals)")


def _span(numbers: pd.Series) -> str:
    """The one number there is, or "smallest to largest"."""
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"
