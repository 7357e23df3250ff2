"""The reader's model card."""

import json
from pathlib import Path

import jiwer

from kvlib.lab.study.synthetic import COLORS, MAX_LINE, PAST_QUESTION, QUESTIONS

FOR_THE_CARD = ("log.jsonl", "training.md")  # files of a reader's folder
CARD = """\
---
license: apache-2.0
---
# The embedded reader

A Qwen2.5-VL of {parameters:.1f} M parameters that reads text on screen in streams, trained from scratch for this workbook. It
cannot do anything else: it describes no pictures, and understands only {phrasings} phrasings of four questions, and the
question "{past}".

The questions ask for the text on screen now, the title (the text of the first chunk), the text on a card of a given colour
({colors}), and a one-sentence summary. A text has one or two lines of
up to {line} printable ASCII characters. The answer for a blank screen is "No text visible". The default resolution is 280x140,
50 tokens for two frames.

## Training

{training}

| run | device | seconds | steps | clips of two frames | answers | different clips drawn |
| --- | --- | --- | --- | --- | --- | --- |
{runs}

## Held-out scores

Held-out lines, font families and layouts; H.264, read at the default resolution. Device {device_used}, seed {seed}, greedy. The
intervals are 95%, over streams.

| streams | number |
| --- | --- |
{streams}

| streams | question | exact | interval | n | character error rate |
| --- | --- | --- | --- | --- | --- |
{rows}

"absent card" asks for a colour that was not shown, "earlier chunk" for the text of 2 to 8 chunks ago.

| streams | bar | measured | n | met |
| --- | --- | --- | --- | --- |
{bars}

Of the {mistakes} mistakes in `evaluation.json`, {single} are one character away from the truth. {hardest}
{differences}"""
HARDEST = 3  # font families that the card names

DIFFERENCES = """
## Against the reader before

Exact answers of this reader minus those of the one before, on the same streams and questions.

| streams | question | points | interval | n |
| --- | --- | --- | --- | --- |
{rows}
"""


def wrong_characters(truth: str, answer: str) -> int:
    """Characters to substitute, insert or delete."""
    counted = jiwer.process_characters(truth, answer)
    return counted.substitutions + counted.insertions + counted.deletions


def write_card(result: dict, reader: Path, out: Path) -> None:
    """Write the model card README.md to the folder `out`, from the evaluation, and from the training's log and the file
    training.md in the folder `reader`."""
    log = [json.loads(line) for line in (reader / "log.jsonl").read_text().splitlines()]
    starts = [index for index, entry in enumerate(log) if "parameters" in entry]
    runs = []
    for number, (begin, until) in enumerate(zip(starts, [*starts[1:], len(log)], strict=True), 1):
        end = {
            name: value for entry in log[begin:until] if "step" in entry for name, value in entry.items()
        }  # the last of each
        clips = end["clips"] if "clips" in end else end["chunks"]  # chunks of one clip each
        values = " | ".join(f"{value:,}" for value in (end["s"], end["step"], clips, end["answers"], end["rendered"]))
        gpus = log[begin].get("gpus", 1)
        runs.append(f"| {number} | {f'{gpus} x ' if gpus > 1 else ''}{log[begin]['device']} | {values} |")
    text = CARD.format(
        parameters=log[starts[-1]]["parameters"] / 1e6,
        phrasings=sum(map(len, QUESTIONS.values())),
        colors=", ".join(COLORS),
        line=MAX_LINE,
        training=(reader / "training.md").read_text().strip(),
        runs="\n".join(runs),
        device_used=result["device"],
        seed=result["seed"],
        streams="\n".join(f"| {name} | {count} |" for name, count in result["streams"].items()),
        rows="\n".join(
            f"| {k['condition']} | {k['kind']} | {k['accuracy']:.3f} | {k['low']:.3f} to {k['high']:.3f} | {k['n']} | {k['cer']:.4f} |"
            for k in result["kinds"]
        ),
        bars="\n".join(
            f"| {b['condition']} | {b['bar']} | {b['measured']:.4f} | {b['n']} | {'yes' if b['met'] else 'no'} |"
            for b in result["bars"]
        ),
        mistakes=len(result["mistakes"]),
        single=sum(wrong_characters(m["truth"], m["answer"]) == 1 for m in result["mistakes"]),
        past=PAST_QUESTION.format(ago="N"),
        hardest=_hardest(result["current_line_by_family"]),
        differences=_differences(result.get("differences", [])),
    )
    (out / "README.md").write_text(text)


def _hardest(families: list[dict]) -> str:
    """Which families have the most wrong lines, and the score without them. families: rows of `score` by family."""
    families = sorted(families, key=lambda row: row["correct"] - row["n"])
    worst, rest = families[:HARDEST], families[HARDEST:]
    wrong, of_worst = (sum(row["n"] - row["correct"] for row in rows) for rows in (families, worst))
    right, n = (sum(row[name] for row in rest) for name in ("correct", "n"))
    names = ", ".join(row["family"] for row in worst)
    return (
        f"Of the {wrong} wrong current lines in\nchunks of 2 frames, {of_worst} are in {HARDEST} of {len(families)} font families "
        f"({names}); in the others {right / n:.1%} of {n} are exact."
    )


def _differences(rows: list[dict]) -> str:
    table = "\n".join(
        f"| {row['condition']} | {row['kind']} | {100 * row['difference']:+.1f} | {100 * row['low']:+.1f} to "
        f"{100 * row['high']:+.1f} | {row['n']} |"
        for row in rows
    )
    return DIFFERENCES.format(rows=table) if rows else ""
