"""Run the notebooks and print the table of criteria: `python -m kvlib.lab.workbook [NOTEBOOK ...] [-p NAME VALUE]`.

Executed copies, reports and a page that shows all go to `results/`, figures to `figures/`. The exit status is 1 when a
notebook did not finish, left no report, or has a criterion that failed; 2 for a wrong argument.
"""

import argparse
import ast
import json
import os
import sys
import time
from pathlib import Path

import papermill

from kvlib.lab.report import paths
from kvlib.lab.report.index import write_index
from kvlib.lab.report.report import FAIL

NOTEBOOK_DIR = paths.ROOT / "notebooks"
NOTEBOOKS = sorted(path.stem for path in NOTEBOOK_DIR.glob("*.ipynb"))
ERROR_LINES = 15
QUIET = ["--log-level=CRITICAL"]  # kernels complain of their connection and of the end, in the middle of our lines


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen notebooks, all by default; return the exit status."""
    options = _parse(arguments)
    criteria, unfinished = [], []
    for name in options.notebooks:
        report = paths.report_path(name, options.parameters.get("OUTPUT_DIR", "")).with_suffix(".json")
        report.unlink(missing_ok=True)  # an old report must not stand for this run
        if run_notebook(name, options.parameters) and report.is_file():
            criteria += [{"notebook": name, **row} for row in json.loads(report.read_text())["criteria"]]
        else:
            unfinished.append(name)
    print_criteria(criteria)
    output = options.parameters.get("OUTPUT_DIR", "")
    page = write_index(paths.report_path("", output).parent, paths.figure_dir(output))
    print(f"all of it on one page: {paths.shown(page)}")
    for name in unfinished:
        print(f"{name} did not finish with a report; see {paths.shown(executed_copy(name))}")
    return int(bool(unfinished) or any(row["verdict"] == FAIL for row in criteria))


def run_notebook(name: str, parameters: dict) -> bool:
    """Execute one notebook with those of the parameters it knows; report on one line; return whether it finished."""
    source, target = NOTEBOOK_DIR / f"{name}.ipynb", executed_copy(name)
    target.parent.mkdir(exist_ok=True)
    print(f"{name} ", end="", flush=True)
    start, error = time.perf_counter(), None
    try:
        known = {key: parameters[key] for key in parameters.keys() & notebook_parameters(name)}
        papermill.execute_notebook(
            source, target, parameters=known, kernel_name="python3", progress_bar=False, extra_arguments=QUIET
        )
    except Exception as caught:  # a failing cell, a dead kernel or a broken file must not stop the other notebooks
        error = caught
    print(f"{time.perf_counter() - start:.1f} s {'failed' if error else 'finished'}", flush=True)
    if error:
        print("\n".join(f"    {line}" for line in _last_lines(error)), flush=True)
    return error is None


def notebook_parameters(name: str) -> set[str]:
    """The names in the notebook's parameters cell."""
    return set(papermill.inspect_notebook(NOTEBOOK_DIR / f"{name}.ipynb"))


def executed_copy(name: str) -> Path:
    """Where the executed notebook goes."""
    return paths.RESULTS / f"{name}.ipynb"


def print_criteria(criteria: list[dict]):
    """One line per criterion: notebook, id, verdict, description, measured value."""
    print()
    for row in criteria:
        measured = row["measured"]
        measured = f"{measured:.4g}" if isinstance(measured, float) else measured
        print(f"{row['notebook']:<18} {row['id']:<4} {row['verdict']}  {row['description']}: {measured}")
    verdicts = [row["verdict"] for row in criteria]
    print("\n" + ", ".join(f"{verdicts.count(v)} {v}" for v in ("PASS", "WARN", "FAIL")))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kvlib.lab.workbook", description="Run the notebooks.")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"any of {', '.join(NOTEBOOKS)}; all if none")
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="parameters",
        help="set a parameter in every notebook that has it",
    )
    options = parser.parse_args(arguments)
    options.notebooks = [Path(name).stem for name in options.notebooks] or NOTEBOOKS
    options.parameters = {name: _literal(value) for name, value in options.parameters}
    missing = [name for name in options.notebooks if not (NOTEBOOK_DIR / f"{name}.ipynb").is_file()]
    if missing:
        parser.error(f"no notebook {missing[0]}.ipynb in notebooks/: choose from {', '.join(NOTEBOOKS)}")
    known = set().union(*map(notebook_parameters, options.notebooks)) if options.parameters else set()
    unknown = sorted(options.parameters.keys() - known)
    if unknown:
        parser.error(f"no notebook has a parameter {unknown[0]}: choose from {', '.join(sorted(known))}")
    if os.environ.get("REPORT_PATH", "").endswith(".txt") and len(options.notebooks) > 1:
        parser.error("REPORT_PATH names one file for several notebooks: give it a folder")
    return options


def _literal(value: str):
    """A Python literal (`4`, `0.5`, `True`, `[1, 2]`), or else the text itself."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _last_lines(error: Exception) -> list[str]:
    """The end of a cell's traceback, or the error itself where no cell raised it."""
    return (str(error).rstrip() or repr(error)).splitlines()[-ERROR_LINES:]


if __name__ == "__main__":
    sys.exit(main())
