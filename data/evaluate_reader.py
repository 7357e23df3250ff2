"""Evaluate the reader on lines, font families and layouts that training never used, through the engine on H.264 video.

    .venv/bin/python data/evaluate_reader.py .fonts        # writes answers.parquet, evaluation.json and the card to data/reader

Against another reader, on the same streams:

    .venv/bin/python data/evaluate_reader.py .fonts --reader OTHER --out /tmp/other
    .venv/bin/python data/evaluate_reader.py .fonts --against /tmp/other        # with paired differences

`.fonts` is the folder that `collect_fonts.py` wrote. `evaluation/streams.py` lists the kinds of streams. They are watched on the
CPU, which takes about 50 minutes on 2 cores.
"""

import argparse
import json
import sys
from multiprocessing import Pool
from pathlib import Path

import pandas as pd
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.card import FOR_THE_CARD, write_card  # noqa: E402
from evaluation.scores import differences, score, verdicts  # noqa: E402
from evaluation.streams import CONDITIONS, SEED, watch  # noqa: E402

from kvlib.lab.report import paths  # noqa: E402
from kvlib.lab.report.files import as_json, write_atomic  # noqa: E402


def watch_all(families: dict[str, list[str]], reader: Path, workers: int) -> pd.DataFrame:
    """The answers of the reader in the folder `reader` about all streams, in `workers` processes."""
    jobs = [(condition, seed, families, str(reader)) for condition in CONDITIONS for seed in range(condition.streams)]
    with Pool(workers) as pool:
        found = pool.imap(watch, jobs)
        return pd.DataFrame([row for rows in tqdm(found, total=len(jobs), desc=str(reader)) for row in rows])


def summarize(answers: pd.DataFrame, families: dict[str, list[str]]) -> dict:
    """What evaluation.json holds, for the answers of `watch_all`."""
    reading = answers[(answers["condition"] == CONDITIONS[0].name) & (answers["kind"] == "current line")]
    mistakes = answers.loc[~answers["correct"], ["condition", "kind", "family", "truth", "answer"]]
    return {
        "split": "held-out lines, font families and layouts; H.264, read at 280x140 pixels or 252x140",
        "seed": SEED,
        "device": "cpu, fp32",
        "streams": {condition.name: condition.streams for condition in CONDITIONS},
        "families": sorted(families),
        "kinds": (kinds := score(answers, ["condition", "kind"])),
        "bars": verdicts(kinds),
        "current_line_by_family": score(reading, ["family"]),
        "current_line_by_layout": score(reading, ["layout"]),
        "mistakes": mistakes.groupby("condition", sort=False).head(20).to_dict("records"),
    }


def known_differences(answers: pd.DataFrame, reader: Path) -> list[dict]:
    """The differences from another reader that `reader`'s evaluation.json has, as long as its answers are still these."""
    if not (reader / "answers.parquet").exists() or not pd.read_parquet(reader / "answers.parquet").equals(answers):
        return []
    return json.loads((reader / "evaluation.json").read_text()).get("differences", [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fonts", type=Path, help="folder that collect_fonts.py wrote")
    parser.add_argument("--reader", type=Path, default=paths.READER)
    parser.add_argument("--out", type=Path, help="folder for what is written; by default the reader's own")
    parser.add_argument(
        "--against",
        type=Path,
        help="the `--out` of an evaluation of another reader, to compare with; by default the comparison that the card has is "
        "kept, as long as the answers are the same",
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if missing := [name for name in FOR_THE_CARD if not (options.reader / name).exists()]:
        parser.error(f"{options.reader} has no {' and no '.join(missing)}: the card is written from log.jsonl and training.md")
    held_out = json.loads((options.fonts / "fonts.json").read_text())["held_out"]
    families = {family: [str(options.fonts / face) for face in faces] for family, faces in held_out.items()}
    before = pd.read_parquet(options.against / "answers.parquet") if options.against else None
    out = options.out or options.reader
    out.mkdir(parents=True, exist_ok=True)
    answers = watch_all(families, options.reader, options.workers)
    result = summarize(answers, families)
    compared = known_differences(answers, options.reader) if before is None else differences(answers, before)
    if compared:
        result["differences"] = compared
    # The answers come last: as long as they are the old ones, `known_differences` does not take a comparison for theirs.
    write_atomic(out / "evaluation.json", json.dumps(as_json(result), indent=1) + "\n")
    answers.to_parquet(out / "answers.parquet")
    write_card(result, options.reader, out)
    for row in result["bars"]:
        print("met   " if row["met"] else "MISSED", row["condition"], "|", row["bar"], f"{row['measured']:.4f}")
