"""Compare what `speed.py` measured with targets, and draw it.

    .venv/bin/python benchmarks/draw.py benchmarks/results/h200_3b.json

Writes the tables as text and a figure as PDF and PNG beside the JSON file. Needs no model and no GPU. With `FIGURE_LANG=zh` in
the environment the figure is in Chinese and its name ends in `_zh`.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from kvlib.lab.figures.fonts import chinese_font
from kvlib.lab.figures.labels import file_name, label, language
from kvlib.lab.figures.style import BLACK, INTERVAL, STYLE, TWO_COLUMNS, interval_bars, legend_below, looks_of, save_figure

STAGES = {"prepare": "||||", "vision": "", "evict": "xxxx", "language": "////"}  # hatches
BETWEEN = "between the stages"  # what the median of a chunk has beyond the medians of its stages
PARTS = STAGES | {BETWEEN: "...."}  # of a bar
NAMES = {  # of the methods, as the legend explains them
    "plain": "plain: a transformers loop",
    "re-rotated": "re-rotated: kvlib, all keys rotated at each use",
    "kvlib": "kvlib",
    "kvlib, 8-bit": "kvlib, 8-bit: keys and values in 8 bits",
}
COLUMNS = {"token": "token", "first": "ttft"}  # of `table`, by panel
LONGEST = "130000"


def table(found: dict) -> pd.DataFrame:
    """A row [tokens, method, seconds of each stage, ttft, token, peak_gib] for every method and size; times in seconds."""
    rows = [row for row in found["runs"] if "seconds" in row]
    return pd.DataFrame(
        [
            dict(
                tokens=row["tokens"],
                method=row["method"],
                **row["seconds"],
                ttft=row["ttft"],
                token=1 / row["decode_tokens_per_s"],
                peak_gib=row["peak_bytes"] / 2**30 if row["peak_bytes"] else float("nan"),
            )
            for row in rows
        ]
    )


def spreads(found: dict) -> pd.DataFrame:
    """`table` with the least and the largest repeat of a chunk, of `ttft` and of `token`; NaN where they were not kept.

    Also the column `BETWEEN`.
    """
    rows = table(found)
    rows[BETWEEN] = (rows["chunk"] - rows[rows.columns.intersection(list(STAGES))].sum(axis=1)).clip(lower=0)
    for name, kept in (("chunk", "chunk"), ("ttft", "ttft"), ("token", "decode_tokens_per_s")):
        bounds = [row.get("spread", {}).get(kept, [math.nan] * 2) for row in found["runs"] if "seconds" in row]
        times = [sorted(1 / value for value in pair) if name == "token" else pair for pair in bounds]
        rows[f"{name} least"], rows[f"{name} largest"] = ([pair[i] for pair in times] for i in (0, 1))
    return rows


def bars(found: dict) -> list[tuple[str, str, str, bool | None]]:
    """Every target that applies to this file: (what, measured, target, met). `met` is None where it was not measured."""
    rows, judged = table(found).set_index(["tokens", "method"]), []

    def judge(what: str, value: float | None, unit: str, bar: float, at_least: bool) -> None:
        met = None if value is None else bool(value >= bar if at_least else value <= bar)
        measured = "not measured" if value is None else f"{value:,.3g}{unit}" if value < 1000 else f"{value:,.0f}{unit}"
        judged.append((what, measured, f"{'>=' if at_least else '<='} {bar:,g}{unit}", met))

    if found["parameters"]["shapes"] == "3b":
        plain, ours = (rows.loc[(int(LONGEST), name)] for name in ("plain", "kvlib"))
        judge("whole chunk at 130k tokens, times faster than plain", plain["chunk"] / ours["chunk"], "x", 3, True)
        judge("vision tower, times faster", plain["vision"] / ours["vision"], "x", 5, True)
        judge("decoded token at 130k, times faster", plain["token"] / ours["token"], "x", 5, True)
        judge("time to first token of a question at 130k", 1e3 * ours["ttft"], " ms", 60, False)
        judge("tokens held, bf16", found["largest"]["kvlib"], "", 400_000, True)
        judge("tokens held, 8-bit", found["largest"]["kvlib, 8-bit"], "", 800_000, True)
        judge("evict and remap at 130k, mean share of a chunk", 100 * ours["evict, mean"] / ours["chunk"], "%", 1, False)
        attention = next(row for row in found["attention"] if row["past"] == int(LONGEST))
        share = 100 * attention["flops"] / found["ceilings"]["matmul_flops"]
        judge("attention at 130k, share of the matrix product's rate", share, "%", 60, True)
        peaks = found["long_streams"][0].get("own_peak_bytes")
        growth = None if peaks is None else 100 * abs(max(peaks.values()) / min(peaks.values()) - 1)
        judge("peak memory, chunk 50 against 500", growth, "%", 1, False)
    if found["parameters"]["shapes"] == "reader":
        long = found["long_streams"][0]
        judge("chunk time, 5,000th against 100th", long["late_seconds"] / long["early_seconds"], "x", 1.05, False)
    logits = found["logits_against_fp32"]["kvlib"]
    same = 100 * sum(logits["same_likeliest"]) / len(logits["same_likeliest"])
    judge("logits: same likeliest token as in fp32", same, "%", 100, True)
    against = logits["relative_error"] / max(found["logits_against_fp32"]["plain"]["relative_error"], 1e-6)
    judge("logits: relative error over that of the plain loop", against, "x", 1.1, False)
    return judged


def roofline(found: dict) -> pd.DataFrame:
    """By size: the operations of a chunk, their time at the measured rate of a large matrix product, and kvlib's time."""
    rows, rate = table(found).set_index(["tokens", "method"]), found["ceilings"]["matmul_flops"]
    return pd.DataFrame(
        [
            dict(
                tokens=int(tokens),
                tflop=sum(parts.values()) / 1e12,
                floor_ms=1e3 * sum(parts.values()) / rate,
                kvlib_ms=1e3 * rows.loc[(int(tokens), "kvlib"), "chunk"],
            )
            for tokens, parts in found["flops"].items()
        ]
    )


def draw(found: dict):
    """A figure of the seconds of a chunk by stage, the milliseconds of a token and of the first one, and the tokens that fit.

    A method has one colour and marker in all panels, a stage one hatch. Thin lines go from the least to the largest repeat,
    where the file has them.
    """
    rows, largest = spreads(found), found.get("largest") or {}
    methods = [name for name in NAMES if name in set(rows["method"])]
    below = ["token", "first", *(["fits"] if largest else [])]
    bars = 0.2 * (len(rows) + rows["tokens"].nunique())  # inches: a line for every bar and every size
    with plt.rc_context(STYLE):
        size = dict(figsize=(TWO_COLUMNS, bars + 4.0), height_ratios=[bars, 1.6])
        fig, panels = plt.subplot_mosaic([["chunk"] * len(below), below], **size)
        _draw_chunks(panels["chunk"], rows, methods, found)
        for name, title in (("token", "A decoded token"), ("first", "The first token")):
            _draw_milliseconds(panels[name], rows, methods, COLUMNS[name])
            panels[name].set(xlabel=label("tokens in the cache"), title=label(title))
        panels["token"].set_ylabel(label("milliseconds"))
        if largest:
            _draw_largest(panels["fits"], largest)
            panels["fits"].set_title(label(f"Fits in {found['limit_bytes'] / 2**30:.1f} GiB"))
        stages = [Patch(facecolor=BLACK, edgecolor="white", hatch=h, label=label(part)) for part, h in PARTS.items()]
        legend_below(fig, ncols=2, more=stages)
    plt.close(fig)
    return fig


def _draw_chunks(axis: Axes, rows: pd.DataFrame, methods: list[str], found: dict) -> None:
    """Draw a bar per size and method, from above, with the stages in a row, below a line with the size."""
    texts, looks = [], looks_of(methods)
    for tokens, group in rows.groupby("tokens"):
        texts.append(label(f"{_short(tokens)} tokens:"))
        for row in group.to_dict("records"):
            left = 0.0
            for part, hatch in PARTS.items():
                width = row[part] if pd.notna(row.get(part)) else 0.0
                look = {"color": looks[row["method"]]["color"], "edgecolor": "white", "linewidth": 0, "hatch": hatch}
                axis.barh(len(texts), width, left=left, height=0.8, **look)
                left += width
            if pd.notna(row["chunk least"]):
                bounds = [[row["chunk"] - row["chunk least"]], [row["chunk largest"] - row["chunk"]]]
                axis.errorbar([row["chunk"]], [len(texts)], xerr=bounds, **INTERVAL | {"color": BLACK})
            texts.append(label(row["method"]))
    axis.set_yticks(range(len(texts)), texts)
    spread = "lines: least and largest" if rows["chunk least"].notna().any() else "spread not kept"
    axis.set_xlabel(label(f"seconds per chunk (median of {found['parameters']['repeats']}; {spread})"))
    axis.set(xlim=(0, None), ylim=(len(texts) - 0.4, -0.6))
    single = "; only one cache size was measured" if rows["tokens"].nunique() == 1 else ""
    axis.set_title(label(f"One chunk, by stage{single}"))
    axis.grid(axis="y", visible=False)


def _draw_milliseconds(axis: Axes, rows: pd.DataFrame, methods: list[str], column: str) -> None:
    """Draw a point per method beside each other for every size. No line joins them: nothing was measured between the sizes."""
    sizes = sorted(rows["tokens"].unique())
    for i, (name, look) in enumerate(looks_of(methods).items()):
        part = rows[rows["method"] == name]
        at = part["tokens"].map(sizes.index) + 0.2 * (i - (len(methods) - 1) / 2)
        least, largest = f"{column} least", f"{column} largest"
        shown = 1e3 * part[[column, least, largest]]
        bars = interval_bars(shown, column, least, largest)
        axis.errorbar(at, shown[column], yerr=bars, label=label(NAMES[name]), **look | INTERVAL)
    ticks = _ticks(1e3 * rows[[f"{name}{end}" for name in COLUMNS.values() for end in ("", " least", " largest")]])
    axis.set(yscale="log", xlim=(-0.6, len(sizes) - 0.4), ylim=(0.9 * ticks[0], 1.1 * ticks[-1]))
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xticks(range(len(sizes)), [_short(size) for size in sizes])
    axis.grid(axis="x", visible=False)


def _ticks(values: pd.DataFrame) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last one below all `values` to the first one above them."""
    ticks = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]
    low, high = values.min().min(), values.max().max()
    return [tick for tick, above, below in zip(ticks, ticks[1:], [0.0, *ticks], strict=False) if above > low and below < high]


def _draw_largest(axis: Axes, largest: dict[str, int]) -> None:
    heights, colors = [n / _unit() for n in largest.values()], [look["color"] for look in looks_of(largest).values()]
    axis.bar(range(len(largest)), heights, color=colors, width=0.6)
    for i, n in enumerate(largest.values()):
        axis.annotate(_short(n), (i, heights[i]), xytext=(0, 2), textcoords="offset points", ha="center")
    axis.set_xticks(range(len(largest)), [label(name).replace(", ", ",\n").replace("，", "，\n") for name in largest])
    axis.set(ylabel=label("thousand tokens"))
    axis.margins(y=0.15)
    axis.grid(axis="x", visible=False)


def _unit() -> int:
    """What tokens are counted in: thousands, in Chinese ten thousands (万)."""
    return 10_000 if language() == "zh" else 1000


def _short(tokens: int) -> str:
    """A number of tokens such as 130k. In Chinese it is 13: the labels beside it name the unit."""
    return f"{tokens / _unit():g}" + ("" if language() == "zh" else "k")


def text(found: dict) -> str:
    """The report: provenance, targets, times, operations and long streams."""
    verdicts = {True: "met", False: "MISSED", None: "not measured"}
    judged = pd.DataFrame(bars(found), columns=["what", "measured", "bar", "met"])
    judged["met"] = judged["met"].map(verdicts)
    device, versions = found["device"], found["versions"]
    streams = []
    for stream in found["long_streams"]:
        size = "{} frames of {} x {}".format(*stream["frames"])
        streams.append(f"  {size} per chunk, {stream['budget']:,} tokens: {stream['frames_per_s']:.1f} frames/s")
    parts = [
        f"{found['parameters']['shapes']} on {device}",
        f"torch {versions['torch']}, transformers {versions['transformers']}, {found['dtype']}, {found['weights']} weights, "
        f"medians of {found['parameters']['repeats']}; chunks of {found['chunk']['tokens']:,} tokens.",
        judged.to_string(index=False),
        "Milliseconds of all methods, and GiB at the peak:",
        in_ms(table(found)).to_string(index=False, float_format="{:.2f}".format),
        f"What a chunk must compute, and how long that takes at the rate of a large matrix product, measured in the same run "
        f"({found['ceilings']['matmul_flops'] / 1e12:,.3g} TFLOP/s):",
        roofline(found).to_string(index=False, float_format="{:.1f}".format),
        f"Long streams of {found['long_streams'][0]['chunks']:,} chunks:",
        "\n".join(streams),
    ]
    return "\n\n".join(parts) + "\n"


def in_ms(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` with times in milliseconds."""
    times = [column for column in rows if column not in ("tokens", "method", "peak_gib")]
    return rows.assign(**{column: 1e3 * rows[column] for column in times})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a JSON file of speed.py")
    path = parser.parse_args().file
    found = json.loads(path.read_text())
    path.with_suffix(".txt").write_text(text(found))
    if language() == "zh":
        chinese_font()  # raises where there is none
    save_figure(draw(found), file_name(path.stem), path.parent, {"data": hashlib.sha256(path.read_bytes()).hexdigest()})
    print(path.with_suffix(".txt").read_text())


if __name__ == "__main__":
    main()
