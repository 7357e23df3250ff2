"""Do again everything that rests on the embedded reader: its evaluation, the committed figures, and the tables of answers.

    make full        # the list, then all of it: most of a day on 2 cores
    .venv/bin/python data/full.py --list        # the list alone
    .venv/bin/python data/full.py policies recall        # some of it
    .venv/bin/python data/full.py --jobs 6        # several steps at a time, where there are cores for them

Everything is made from one commit, in `results/full/`: the folder must be without uncommitted changes. A step that has ended is not
run again on the same commit. When all steps have ended, their files are copied over the committed ones, and the Chinese figures,
some of which README.zh.md shows, are drawn again from the new data. The numbers in the READMEs are held to these files by
`tests/documents` and `tests/scripts`, which then name those that are to be changed by hand.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kvlib.lab.report import paths  # noqa: E402

OUT = paths.RESULTS / "full"
KVLIB = str(Path(sys.executable).with_name("kvlib"))
WORKBOOK = [KVLIB, "workbook"]
SPEED = "--shapes reader --device cpu --out {out}/cpu_reader.json"
ANSWERS = [sys.executable, "benchmarks/answers.py"]


@dataclass(frozen=True)
class Step:
    """minutes: about how long on 2 cores. command: with {out} for the step's own folder. copies: {file in that folder: where its
    copy belongs}; a name with * stands for several files. alone: whether no other step may run at the same time, because it
    measures times."""

    minutes: int
    command: tuple[str, ...]
    copies: dict[str, str]
    alone: bool = False


def notebook(name: str, figures: tuple[str, ...], minutes: int, **parameters) -> Step:
    """A full-size run of one notebook, of which the report is kept, and the figures whose names begin with one of `figures`."""
    given = [word for key, value in parameters.items() for word in ("-p", key, json.dumps(value))]
    copies = {f"{name}_report.txt": f"figures/full_size/{name}_report.txt"}
    for figure in figures:
        copies |= {f"{figure}*.p?[gf]": "figures/full_size", f"data/{figure}*": "figures/full_size/data"}
    return Step(minutes, (*WORKBOOK, name, *given, "-p", "OUTPUT_DIR", "{out}"), copies)


def answers(name: str, file: str, minutes: int, streams: int | None) -> Step:
    given = ("--streams", str(streams)) if streams else ()
    return Step(minutes, (*ANSWERS, name, *given, "--out", f"{{out}}/{file}"), {file: f"benchmarks/results/{file}"})


STEPS = {
    "evaluation": Step(
        45,
        (sys.executable, "data/evaluate_reader.py", ".fonts", "--out", "{out}"),
        {name: f"data/reader/{name}" for name in ("evaluation.json", "answers.parquet", "README.md")},
    ),
    "workbook": Step(22, (*WORKBOOK, "-p", "OUTPUT_DIR", "{out}"), {"0?_*.p?[gf]": "figures", "data/0?_*": "figures/data"}),
    "positions": notebook(
        "04_position_remap", ("04_accuracy_over_length", "04_strategies"), 200, STREAMS=200, STRATEGY_STREAMS=100
    ),
    "policies": notebook("05_policy_comparison", ("05_retention",), 60, STREAMS=200, OTHER_BUDGETS=[]),
    "recall": notebook("06_recall", ("06_",), 55, STREAMS=50, LONG_STREAMS=30),
    "eight-bit": answers("eight-bit", "eight_bit.csv", 9, 100),
    "drop-static": answers("drop-static", "drop_static_answers.csv", 30, 200),
    "lyrics": answers("lyrics", "drop_static_lyrics.csv", 5, None),
    "recall-answers": answers("recall", "recall_answers.csv", 30, 200),
    "recall-hard": answers("recall-hard", "recall_hard_answers.csv", 15, 100),
    "speed": Step(
        8,
        (
            "sh",
            "-c",
            f"{sys.executable} benchmarks/speed.py {SPEED} && {sys.executable} benchmarks/draw.py {{out}}/cpu_reader.json",
        ),
        {"cpu_reader.*": "benchmarks/results"},
        alone=True,
    ),
}


def commit() -> str:
    """The commit of the repository. Raises SystemExit when something is not committed."""
    changed = _git("status", "--porcelain")
    if changed:
        raise SystemExit(f"these changes are not committed, so the numbers would belong to no commit:\n{changed}")
    return _git("rev-parse", "HEAD")


def run(name: str, at: str) -> bool:
    """Run a step on the commit `at`, unless it has ended there already; returns whether it has ended well."""
    out, step = OUT / name, STEPS[name]
    done = out / "done.json"
    if done.exists() and json.loads(done.read_text())["commit"] == at:
        print(f"{name}: has ended before", flush=True)
        return True
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.time()
    ended = subprocess.run([word.format(out=out) for word in step.command], cwd=paths.ROOT, env=in_language("en"))
    minutes = round((time.time() - started) / 60, 1)
    print(
        f"{name}: {'ended' if ended.returncode == 0 else f'failed with status {ended.returncode}'} after {minutes} min",
        flush=True,
    )
    if ended.returncode == 0:
        done.write_text(json.dumps({"commit": at, "minutes": minutes}))
    return ended.returncode == 0


def redo(names: list[str], at: str, jobs: int = 1) -> list[str]:
    """Run steps on the commit `at`, `jobs` at a time, and copy their files over the committed ones when all have ended well;
    returns the names of those that failed. When figures were copied, the Chinese ones are drawn again.

    Raises FileNotFoundError, before anything is copied, when a file that belongs there was not made, and SystemExit, before
    anything is run, when figures are to be made and no Chinese font is installed.
    """
    figures = any(target.startswith("figures") for name in names for target in STEPS[name].copies.values())
    if figures:
        need_chinese_font()
    together = [name for name in names if not STEPS[name].alone]
    with ThreadPoolExecutor(jobs) as pool:
        ended = dict(zip(together, pool.map(lambda name: run(name, at), together), strict=True))
    ended |= {name: run(name, at) for name in names if STEPS[name].alone}
    failed = [name for name in names if not ended[name]]
    if failed:
        return failed
    for path, target in [made for name in names for made in files_of(name)]:
        shutil.copy(path, target)
    if figures:
        redraw_chinese()
    return []


def files_of(name: str) -> list[tuple[Path, Path]]:
    """What a step has made, and where each file's copy belongs. Raises FileNotFoundError when something was not made."""
    files = []
    for pattern, target in STEPS[name].copies.items():
        found = sorted((OUT / name).glob(pattern))
        if not found:
            raise FileNotFoundError(f"step {name} has made no {pattern} in {OUT / name}")
        files += [(path, paths.ROOT / target) for path in found]
    return files


def need_chinese_font() -> None:
    """Raise SystemExit, which names the remedy, when no Chinese font is installed."""
    from kvlib.lab.figures.fonts import chinese_font  # loads matplotlib, which the list does without

    try:
        chinese_font()
    except RuntimeError as error:
        raise SystemExit(f"the Chinese figures could not be drawn again: {error}") from None


def redraw_chinese() -> None:
    """Draw the Chinese figures from the committed data. Raises SystemExit when that fails."""
    if subprocess.run([KVLIB, "figures"], cwd=paths.ROOT, env=in_language("zh")).returncode:
        raise SystemExit(
            "the new files were copied, but the Chinese figures are the old ones: run `FIGURE_LANG=zh make figures`"
        )


def in_language(language: str) -> dict[str, str]:
    return os.environ | {"FIGURE_LANG": language}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="by default all")
    parser.add_argument("--list", action="store_true", help="print the steps and how long they take, and stop")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time; one that measures times runs alone")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: give at least 1")
    chosen = options.steps or list(STEPS)
    if unknown := set(chosen) - set(STEPS):
        parser.error(f"{', '.join(sorted(unknown))}: no such step; there are {', '.join(STEPS)}")
    for name in chosen:
        print(f"{STEPS[name].minutes:4d} min  {name:15s} {' '.join(STEPS[name].command)}")
    print(f"{sum(STEPS[name].minutes for name in chosen):4d} min  in all, about, on 2 cores", flush=True)
    if options.list:
        raise SystemExit(0)
    if "evaluation" in chosen and not (paths.ROOT / ".fonts" / "fonts.json").exists():
        raise SystemExit("there is no .fonts/fonts.json: data/README.md says how to collect the fonts")
    if failed := redo(chosen, commit(), options.jobs):
        raise SystemExit(
            f"nothing was copied, because these failed: {', '.join(failed)}. Start again: the others are not run again"
        )
    print("copied. Now `make test` names the numbers in the READMEs that are to be changed.")
