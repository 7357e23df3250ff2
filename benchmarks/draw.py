"""Compare what `speed.py` measured with targets, and draw it.

    .venv/bin/python benchmarks/draw.py benchmarks/results/h200_3b.json

Writes the tables as text and a figure as PDF and PNG beside the JSON file. Needs no model and no GPU.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from kvlib.lab.figures.style import BLUE, GREEN, GREY, ORANGE, RED, STYLE, TWO_COLUMNS

STAGES = {"prepare": GREY, "vision": BLUE, "evict": RED, "language": ORANGE}
METHODS = {"plain": GREY, "re-rotated": ORANGE, "kvlib": BLUE, "kvlib, 8-bit": GREEN}
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
    """A figure of seconds per chunk by stage, milliseconds per decoded token and to the first one, and tokens that fit."""
    rows = table(found)
    sizes, present = sorted(rows["tokens"].unique()), [c for c in METHODS if c in set(rows["method"])]
    with plt.rc_context(STYLE):
        largest = found.get("largest")
        widths = (1.6, 1, 1) if largest else (1.6, 1)
        fig, (chunk, token, *rest) = plt.subplots(1, len(widths), figsize=(TWO_COLUMNS, 2.7), width_ratios=widths)
        places, labels = [], []
        for group, size in enumerate(sizes):
            for i, method in enumerate(present):
                row = rows[(rows["tokens"] == size) & (rows["method"] == method)]
                if row.empty:
                    continue
                place, bottom = group * (len(present) + 1) + i, 0.0
                for stage, color in STAGES.items():
                    height = row[stage].iloc[0] if stage in row and row[stage].notna().all() else 0.0
                    chunk.bar(
                        place, height, bottom=bottom, color=color, width=0.8, linewidth=0, label=stage if not places else None
                    )
                    bottom += height
                places.append(place)
                labels.append(method)
            chunk.annotate(
                f"{size / 1000:g}k tokens", (group * (len(present) + 1) + (len(present) - 1) / 2, 1.0),
                xycoords=("data", "axes fraction"), xytext=(0, -8), textcoords="offset points", ha="center", fontsize=7,
            )  # fmt: skip
        chunk.set_xticks(places, labels, rotation=90, fontsize=6)
        chunk.set(ylabel="seconds per chunk", title="One chunk, by stage")
        chunk.margins(y=0.15)
        chunk.grid(axis="x", visible=False)
        fig.legend(*chunk.get_legend_handles_labels(), loc="outside lower left", ncols=len(STAGES), fontsize=6, columnspacing=1)
        for method in present:
            part = rows[rows["method"] == method].sort_values("tokens")
            token.plot(part["tokens"], 1e3 * part["token"], marker="o", color=METHODS[method], label=method)
            token.plot(part["tokens"], 1e3 * part["ttft"], marker="^", linestyle=":", color=METHODS[method])
        token.set(
            xscale="log",
            yscale="log",
            xlabel="tokens in the cache",
            ylabel="milliseconds",
            title="A token (—), the first (···)",
        )
        token.set_xticks(sizes, [f"{size / 1000:g}k" for size in sizes])
        token.minorticks_off()
        fig.legend(
            *token.get_legend_handles_labels(), loc="outside lower right", ncols=len(present), fontsize=6, columnspacing=1
        )
        for fits in rest:
            fits.bar(list(largest), [n / 1e3 for n in largest.values()], color=[METHODS[c] for c in largest], width=0.6)
            for i, n in enumerate(largest.values()):
                fits.annotate(f"{n // 1000}k", (i, n / 1e3), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
            fits.set(ylabel="thousand tokens", title=f"What fits in {found['limit_bytes'] / 2**30:.1f} GiB")
            fits.tick_params(axis="x", rotation=90)
            fits.margins(y=0.1)
            fits.grid(axis="x", visible=False)
    plt.close(fig)
    return fig


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
    figure = draw(found)
    with plt.rc_context(STYLE):
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        figure.savefig(path.with_suffix(".png"), dpi=300)
    print(path.with_suffix(".txt").read_text())


if __name__ == "__main__":
    main()
