"""The workbook's figures, in one style that suits a thesis.

Colours are Okabe and Ito's, safe for the colour-blind; markers and line styles differ too, so that a grey print can be
read. Every function takes plain DataFrames and returns a Figure that pyplot no longer holds: show it with `display`.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from statsmodels.stats.proportion import proportion_confint

from kvlib.lab.report.report import write_atomic

# Inches. An A4 page with margins of 2.5 cm leaves 16 cm for text; two columns lie 4 mm apart.
TWO_COLUMNS = 6.3
ONE_COLUMN = 3.07

STYLE = sns.axes_style("whitegrid") | {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,  # TrueType, embedded: text stays text
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"  # with the next two Okabe and Ito's
PURPLE, SKY = "#CC79A7", "#56B4E9"
SERIES = [
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": RED, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
    {"color": GREEN, "marker": "^", "linestyle": "-."},
    {"color": ORANGE, "marker": "D", "linestyle": ":", "markerfacecolor": "white"},
    {"color": PURPLE, "marker": "v", "linestyle": (0, (5, 1, 1, 1))},
    {"color": SKY, "marker": "o", "linestyle": (0, (4, 1)), "markerfacecolor": "white"},
]
LIMIT = {"color": GREY, "linestyle": (0, (1, 1)), "linewidth": 1}


def save_figure(fig: Figure, name: str, folder: Path, provenance: dict) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png` (300 dpi) to `folder`; return both paths.

    The provenance (`Report.provenance`) goes into the files' metadata, but neither time nor commit: the same data give the
    same bytes, so a rerun does not change the committed figures.
    """
    provenance = json.dumps(provenance, sort_keys=True, default=str)
    kinds = {
        "pdf": {"Title": name, "Subject": provenance, "CreationDate": None},
        "png": {"Title": name, "Description": provenance},
    }
    written = []
    for kind, metadata in kinds.items():
        buffer = io.BytesIO()
        with plt.rc_context(STYLE):
            fig.savefig(buffer, format=kind, dpi=300, metadata=metadata)
        path = folder / f"{name}.{kind}"
        write_atomic(path, buffer.getvalue())
        written.append(path)
    return written


def plot_sinks(increments: pd.DataFrame, sinks: pd.DataFrame, constant: int = 128) -> Figure:
    """01: the detected sink of each configuration, and what each later chunk added.

    Args:
        increments: one row per chunk: `configuration` (label), `chunk`, `new_tokens` (cache length after minus before).
        sinks: one row per configuration: `configuration`, `sink_tokens`.
        constant: the fixed sink size, in tokens, that the detected ones are compared with.
    """
    fig, (left, right) = _figure(TWO_COLUMNS, 2.6, ncols=2)
    with plt.rc_context(STYLE):
        left.barh(sinks["configuration"], sinks["sink_tokens"], color=BLUE, height=0.6)
        left.axvline(constant, label=f"a constant {constant}", **LIMIT | {"color": "black"})
        left.set_ylim(max(len(sinks), 3) - 0.5, -0.5)  # from the top down; a single bar does not fill the panel
        left.set(xlabel="sink (tokens)", title="Sink = the whole first chunk")
        left.grid(axis="y", visible=False)
        for style, (label, rows) in zip(_styles(), increments.groupby("configuration", sort=False), strict=False):
            right.plot(rows["chunk"], rows["new_tokens"], label=label, **style)
        right.set(
            xlabel="chunk", ylabel="tokens added", title="Growth per chunk", ylim=(0, 1.1 * increments["new_tokens"].max())
        )
        right.xaxis.get_major_locator().set_params(integer=True)
        _legend_below(fig, ncols=3)
    return fig


def plot_memory(chunks: pd.DataFrame, budget_tokens: int, limit_bytes: int | None = None) -> Figure:
    """02: cache length and bytes while the stream runs, evictions and the end of memory marked.

    Args:
        chunks: one row per chunk and run: `run` (label), `chunk`, `cache_tokens`, `cache_bytes`, `event`, which is ""
            or "eviction" or "out of memory".
        budget_tokens: the eviction budget, a line in the left panel.
        limit_bytes: the memory limit, a line in the right panel.
    """
    fig, (left, right) = _figure(TWO_COLUMNS, 2.6, ncols=2)
    scale, unit = _byte_unit(max(chunks["cache_bytes"].max(), limit_bytes or 0))
    with plt.rc_context(STYLE):
        for axis, column, factor in ((left, "cache_tokens", 1), (right, "cache_bytes", 1 / scale)):
            for style, (label, rows) in zip(SERIES, chunks.groupby("run", sort=False), strict=False):
                axis.plot(rows["chunk"], rows[column] * factor, label=label, **style | {"marker": ""})
                _mark_events(axis, rows["chunk"], rows[column] * factor, rows["event"], style["color"])
            axis.set(xlabel="chunk", ylim=(0, None))
        left.axhline(budget_tokens, label=f"budget {budget_tokens:,}", **LIMIT)
        left.set(ylabel="cache length (tokens)", title="Tokens")
        if limit_bytes is not None:
            right.axhline(limit_bytes / scale, label=f"limit {limit_bytes / scale:.3g} {unit}", **LIMIT)
        right.set(ylabel=f"keys and values ({unit})", title="Bytes")
        _legend_below(fig, ncols=3)
    return fig


def plot_live(chunks: pd.DataFrame, budget_tokens: int) -> Figure:
    """A stream while it runs: cache length against the budget with evictions marked, and seconds per chunk.

    Args:
        chunks: one row per chunk: `chunk`, `cache_tokens`, `cache_bytes`, `seconds`, `event` ("" or "eviction").
        budget_tokens: a line in the left panel.
    """
    fig, (left, right) = _figure(TWO_COLUMNS, 1.9, ncols=2)
    scale, unit = _byte_unit(chunks["cache_bytes"].max())
    with plt.rc_context(STYLE):
        left.plot(chunks["chunk"], chunks["cache_tokens"], color=BLUE)
        _mark_events(left, chunks["chunk"], chunks["cache_tokens"], chunks["event"], BLUE)
        left.axhline(budget_tokens, **LIMIT)
        held = chunks["cache_bytes"].iloc[-1] / scale
        title = f"{held:.3g} {unit} held, budget {budget_tokens:,}"
        left.set(xlabel="chunk", ylabel="tokens stored", ylim=(0, None), title=title)
        right.plot(chunks["chunk"], 1e3 * chunks["seconds"], color=RED)
        right.set(xlabel="chunk", ylabel="milliseconds", ylim=(0, None), title="Time per chunk")
    return fig


def plot_line_timeline(lines: pd.DataFrame, asks: pd.DataFrame) -> Figure:
    """03: every subtitle over time by what became of it, and the moments of the questions.

    Args:
        lines: `kvlib.lab.study.scoring.score_lines`: `start_s`, `end_s`, `text`, `asked`, `found`.
        asks: `kvlib.lab.study.scoring.score_answers`: `time_s`, `exact`.

    The title gives the share of right answers with its 95% Wilson interval.
    """
    fig, axis = _figure(TWO_COLUMNS, 1.2 + 0.13 * len(lines))
    kinds = [
        ("found", lines["found"], {"color": BLUE}),
        ("asked, not found", lines["asked"] & ~lines["found"], {"color": RED, "hatch": "////"}),
        ("never on screen when asked", ~lines["asked"] & ~lines["found"], {"color": "#CCCCCC"}),
    ]
    bars = []
    with plt.rc_context(STYLE):
        for label, chosen, look in kinds:
            rows = lines[chosen]
            height = [lines.index.get_loc(i) for i in rows.index]
            look |= {"facecolor": look.pop("color"), "edgecolor": "white", "linewidth": 0}  # the edge colours the hatch
            axis.barh(height, rows["end_s"] - rows["start_s"], left=rows["start_s"], height=0.7, **look)
            if len(rows):
                bars.append(Patch(label=f"{label} ({len(rows)})", **look))
        for row, label, chosen, marker in ((-2, "right answer", asks["exact"], "o"), (-1, "wrong answer", ~asks["exact"], "x")):
            times = asks["time_s"][chosen]
            axis.plot(times, [row] * len(times), marker, color="black", markersize=3, label=f"{label} ({len(times)})")
        for time_s in asks["time_s"]:
            axis.axvline(time_s, color="#DDDDDD", linewidth=0.3, zorder=0)
        right, n = int(asks["exact"].sum()), len(asks)
        low, high = proportion_confint(right, n, method="wilson")
        axis.set_title(f"{right} of {n} answers right: {right / n:.0%} (95% Wilson {low:.0%} to {high:.0%})")
        axis.set_yticks(range(len(lines)), [_shorten(text) for text in lines["text"]], fontsize=5)
        axis.set(xlabel="time (s)", ylim=(len(lines), -3))
        axis.grid(visible=False)
        _legend_below(fig, ncols=3, more=bars)
    return fig


def plot_ttft(asks: pd.DataFrame, limit_s: float) -> Figure:
    """03: the distribution of the time to first token, in seconds in the column `ttft`, with the limit in words (it is far to
    the right)."""
    ttft_s = asks["ttft"]
    fig, axis = _figure(ONE_COLUMN, 2.4)
    with plt.rc_context(STYLE):
        sns.ecdfplot(x=ttft_s * 1e3, ax=axis, color=BLUE)
        median = ttft_s.median() * 1e3
        axis.axvline(median, label=f"median {median:.3g} ms (limit {limit_s:g} s)", **LIMIT)
        axis.set(xlabel="time to first token (ms)", ylabel=f"share of {len(ttft_s)} questions", ylim=(0, 1.02))
        _legend_below(fig, ncols=1)
    return fig


def plot_accuracy_over_length(scores: pd.DataFrame, first_eviction: float | None = None) -> Figure:
    """04: share of exact answers over stream length, a panel per question, a line per position mode.

    Args:
        scores: one row per cell: `question` (the panel's title), `position_mode`, `chunks` (stream length), `correct`,
            `n`. Bars are 95% Wilson intervals.
        first_eviction: the stream length at which the first eviction came, if any; left of it the modes are the same.
    """
    questions = list(scores["question"].unique())
    fig, axes = _figure(TWO_COLUMNS, 2.6, ncols=len(questions), sharey=True, squeeze=False)
    modes = list(scores["position_mode"].unique())
    apart = 0.012 * scores["chunks"].max()  # so that lines of equal values do not hide each other
    with plt.rc_context(STYLE):
        for axis, question in zip(axes[0], questions, strict=True):
            for i, (style, mode) in enumerate(zip(SERIES, modes, strict=False)):
                chosen = (scores["question"] == question) & (scores["position_mode"] == mode)
                _plot_proportion(
                    axis, scores[chosen].sort_values("chunks"), mode, style, shift=apart * (i - (len(modes) - 1) / 2)
                )
            if first_eviction is not None:
                axis.axvline(first_eviction, label="first eviction", **LIMIT)
            axis.set(xlabel="chunks streamed", title=question, ylim=(-0.03, 1.03))
        axes[0][0].set_ylabel(f"exact answers\n(n = {_span(scores['n'])}, 95% Wilson)")
        _legend_below(fig, ncols=len(modes) + 1)
    return fig


def plot_retention(scores: pd.DataFrame) -> Figure:
    """05: share of exact answers about what was shown some chunks ago at equal budget, a line per policy.

    Args:
        scores: one row per cell: `panel` (title), `contender`, `age` (chunks since the card was on screen), `correct`, `n`.
    """
    panels = list(scores["panel"].unique())
    fig, axes = _figure(TWO_COLUMNS, 3.0, ncols=len(panels), sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for axis, panel in zip(axes[0], panels, strict=True):
            _plot_contenders(axis, scores[scores["panel"] == panel], "age")
            axis.set(xlabel="age: chunks since it was on screen", title=panel)
            axis.legend()
        axes[0][0].set_ylabel(f"exact answers\n(n = {_span(scores['n'])}, 95% Wilson)")
    return fig


def plot_budgets(scores: pd.DataFrame) -> Figure:
    """05: share of exact answers over the budget, a panel per question, a line per policy.

    Args:
        scores: one row per cell: `question` (the panel's title), `contender`, `budget` (tokens), `correct`, `n`.
    """
    questions = list(scores["question"].unique())
    fig, axes = _figure(TWO_COLUMNS, 2.6, ncols=len(questions), sharey=True, squeeze=False)
    with plt.rc_context(STYLE):
        for axis, question in zip(axes[0], questions, strict=True):
            _plot_contenders(axis, scores[scores["question"] == question], "budget")
            axis.set(xlabel="budget (tokens)", title=question)
        axes[0][0].set_ylabel(f"exact answers\n(n = {_span(scores['n'])}, 95% Wilson)")
        _legend_below(fig, ncols=scores["contender"].nunique())
    return fig


def plot_strategies(summary: pd.DataFrame) -> Figure:
    """04: what each strategy answers, now and backward, with its price in seconds per chunk.

    Args:
        summary: of `kvlib.lab.study.retention.summarise`, by strategy, with seconds: the names are its index.
    """
    fig, axes = _figure(TWO_COLUMNS, 0.9 + 0.24 * len(summary), ncols=2, sharey=True, width_ratios=[2, 1])
    places = np.arange(len(summary))[::-1]
    with plt.rc_context(STYLE):
        for question, style, shift in (("now", SERIES[1], 0.14), ("backward", SERIES[0], -0.14)):
            share = summary[question]
            bars = [(share - summary[f"{question}_low"]).clip(lower=0), (summary[f"{question}_high"] - share).clip(lower=0)]
            label = f"{question} (n = {_span(summary[f'{question}_n'])})"
            axes[0].errorbar(
                share, places + shift, xerr=bars, label=label, capsize=2, elinewidth=0.7, **style | {"linestyle": ""}
            )
        axes[0].set_yticks(places, summary.index)
        axes[0].set(xlabel="exact answers (95% Wilson)", xlim=(-0.03, 1.03))
        axes[1].barh(places, 1e3 * summary["seconds"], color=BLUE)
        axes[1].set(xlabel="time per chunk (ms)")
        for axis in axes:
            axis.grid(axis="y", visible=False)
        _legend_below(fig, ncols=2)
    return fig


def plot_timeline(timeline: pd.DataFrame) -> Figure:
    """05: which chunks are alive at each moment of a stream, a panel per policy.

    Args:
        timeline: one row per living chunk and moment: `contender`, `moment`, `alive` (chunk numbers).
    """
    names = list(timeline["contender"].unique())
    columns = min(4, len(names))
    fig, axes = _figure(
        TWO_COLUMNS, 0.4 + 1.5 * -(-len(names) // columns), ncols=columns, nrows=-(-len(names) // columns), sharex=True,
        sharey=True, squeeze=False,
    )  # fmt: skip
    with plt.rc_context(STYLE):
        for axis, name in zip(axes.flat, names, strict=False):
            rows = timeline[timeline["contender"] == name]
            axis.scatter(rows["moment"], rows["alive"], s=1.5, marker="s", linewidths=0, color=BLUE)
            axis.set_title(name, fontsize=7)
        for axis in list(axes.flat)[len(names) :]:
            axis.set_visible(False)
        fig.supxlabel("moment (chunks streamed)", fontsize=8)
        fig.supylabel("chunk that is alive", fontsize=8)
    return fig


def plot_attention(shares: pd.DataFrame) -> Figure:
    """04: where the question looks, by layer, a panel per position mode; shares of attention, mean over heads.

    Args:
        shares: `kvlib.lab.study.diagnosis.attention_by_region` with a column `position_mode`; several streams may follow one another.
    """
    modes = list(shares["position_mode"].unique())
    fig, axes = _figure(TWO_COLUMNS, 2.4, ncols=len(modes), sharey=True, squeeze=False)
    hatches = ["", "////", "....", ""]
    colors = [BLUE, ORANGE, GREEN, "#CCCCCC"]
    with plt.rc_context(STYLE):
        for axis, mode in zip(axes[0], modes, strict=True):
            table = shares[shares["position_mode"] == mode].pivot_table(index="layer", columns="region", values="share")
            bottom = 0 * table.iloc[:, 0]
            for region, color, hatch in zip(("sink", "history", "recent", "question"), colors, hatches, strict=True):
                axis.bar(table.index, table[region], bottom=bottom, label=region, color=color, hatch=hatch, edgecolor="white")
                bottom = bottom + table[region]
            axis.set(title=mode, xlabel="layer", ylim=(0, 1))
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(axis="x", visible=False)
        axes[0][0].set_ylabel("share of the question's attention")
        _legend_below(fig, ncols=4)
    return fig


def plot_drift(drift: pd.DataFrame) -> Figure:
    """05: relative error of bf16 keys over the number of turns, rotating the last result or the kept original.

    Args:
        drift: `kvlib.lab.study.retention.drift`: `turns`, `method`, `error`.
    """
    fig, axis = _figure(ONE_COLUMN, 2.4)
    with plt.rc_context(STYLE):
        for style, (method, rows) in zip(SERIES, drift.groupby("method"), strict=False):
            axis.loglog(rows["turns"], rows["error"], label=method, **style)
        axis.axhline(2**-8, label="one bf16 rounding, 2⁻⁸", **LIMIT)
        axis.set(xlabel="evictions", ylabel="relative error of the keys")
        _legend_below(fig, ncols=2)
    return fig


def _figure(width: float, height: float, **subplots):
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(width, height), **subplots)
    plt.close(fig)  # or Jupyter would show it twice
    return fig, axes


def _styles():
    """The styles of `SERIES`, then their colours again with other line styles."""
    for round_ in range(len(SERIES)):
        for i, style in enumerate(SERIES):
            yield style | {"linestyle": SERIES[(i + round_) % len(SERIES)]["linestyle"]}


def _plot_contenders(axis: Axes, scores: pd.DataFrame, over: str):
    """A line with intervals for every `contender` over the column `over`, on a logarithmic scale; the lines stand a little
    apart, so that equal values do not hide each other."""
    names, values = list(scores["contender"].unique()), sorted(scores[over].unique())
    for i, (style, name) in enumerate(zip(_styles(), names, strict=False)):
        rows = scores[scores["contender"] == name].sort_values(over)
        apart = 1.04 ** (i - (len(names) - 1) / 2)
        _plot_proportion(axis, rows.assign(chunks=rows[over] * apart), name, style, shift=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [f"{value:,}" for value in values])
    axis.minorticks_off()
    axis.set_ylim(-0.03, 1.03)


def _plot_proportion(axis: Axes, rows: pd.DataFrame, label: str, style: dict, shift: float):
    """One line with its intervals, moved `shift` chunks to the right."""
    share = rows["correct"] / rows["n"]
    low, high = proportion_confint(rows["correct"], rows["n"], method="wilson")
    # Wilson's bounds pass 0 and 1 by rounding errors, which matplotlib refuses as negative bars.
    bars = [(share - low).clip(lower=0), (high - share).clip(lower=0)]
    axis.errorbar(rows["chunks"] + shift, share, yerr=bars, label=label, capsize=2, elinewidth=0.7, **style)


def _mark_events(axis: Axes, chunk: pd.Series, height: pd.Series, event: pd.Series, color: str):
    """Evictions as ticks along the lower edge (often one per chunk), the end of memory as a cross on the line."""
    evicted, ended = event == "eviction", event == "out of memory"
    if evicted.any():
        ticks = {"color": color, "linestyle": "", "marker": "|", "markersize": 5, "markeredgewidth": 0.6}
        edge = axis.get_xaxis_transform()
        axis.plot(chunk[evicted], [0.03] * evicted.sum(), transform=edge, label=f"eviction ({evicted.sum()})", **ticks)
    if ended.any():
        axis.scatter(chunk[ended], height[ended], color=color, zorder=3, marker="X", s=40, label="out of memory")


def _byte_unit(largest: float) -> tuple[int, str]:
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")


def _legend_below(fig: Figure, ncols: int, more: Sequence[Artist] = ()):
    """One legend for all panels; what stands in several of them is listed once."""
    handles = {handle.get_label(): handle for handle in more}
    for axis in fig.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols, frameon=False)


def _span(numbers: pd.Series) -> str:
    """The one number there is, or "smallest to largest"."""
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _shorten(text: str, length: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
