"""Run the notebooks and print the table of criteria.

Executed copies, reports and a page that shows all of it go to `results/`, figures to `results/figures/`.
"""

import ast
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kvlib.lab.report import paths
from kvlib.lab.report.criteria import FAIL, count_verdicts, criteria_table
from kvlib.lab.report.index import write_index
from kvlib.lab.sweep.notebook import execute, last_lines, parameter_defaults

NOTEBOOK_DIR = paths.ROOT / "notebooks"


def notebook_names() -> list[str]:
    """The notebooks by name, without the suffix, in the order in which they run."""
    return sorted(path.stem for path in NOTEBOOK_DIR.glob("*.ipynb"))


def run_workbook(names: Sequence[str], parameters: dict) -> int:
    """Run the notebooks of these `names` with those of the `parameters` that they know; return the exit status.

    It is 1 when a notebook did not finish, left no report, or has a criterion that failed, and when a file could not be
    written.
    """
    output = parameters.get("OUTPUT_DIR", "")
    criteria, unfinished = [], []
    for name in names:
        report = paths.report_path(name, output).with_suffix(".json")
        for old in (report, report.with_suffix(".txt")):
            old.unlink(missing_ok=True)  # it must not stand for this run
        if run_notebook(name, parameters) and report.is_file():
            criteria += [{"notebook": name, **row} for row in json.loads(report.read_text())["criteria"]]
        else:
            unfinished.append(name)
    print_criteria(criteria)
    report = paths.report_path(names[0], output).with_suffix(".json")  # REPORT_PATH may give it a name of its own
    for name in unfinished:
        print(f"{name} did not finish with a report; see {paths.shown(paths.executed_path(name, output))}")
    try:
        page = write_index(report.parent, paths.figure_dir(output), report if report.exists() else None)
    except OSError as error:
        print(f"the page of the run could not be written ({error})", file=sys.stderr)
        return 1
    print(f"all of it on one page: {paths.shown(page)}")
    return int(bool(unfinished) or any(row["verdict"] == FAIL for row in criteria))


def run_notebook(name: str, parameters: dict) -> bool:
    """Execute one notebook with those of the parameters it knows; report on one line; return whether it finished."""
    source, target = NOTEBOOK_DIR / f"{name}.ipynb", paths.executed_path(name, parameters.get("OUTPUT_DIR", ""))
    print(f"{name} ", end="", flush=True)
    start = time.perf_counter()
    known = {key: parameters[key] for key in parameters.keys() & parameter_defaults(source).keys()}
    error = _execute_atomic(source, target, known)
    print(f"{time.perf_counter() - start:.1f} s {'failed' if error else 'finished'}", flush=True)
    if error:
        print(last_lines(error), flush=True)
    return not error


def _execute_atomic(source: Path, target: Path, parameters: dict) -> str:
    """As `execute`, but `target` appears when the notebook has ended: papermill writes the file after every cell."""
    unfinished = target.with_name(f".{target.name}")
    target.unlink(missing_ok=True)  # an old copy must not stand for this run
    try:
        return execute(source, unfinished, parameters)
    finally:
        if unfinished.is_file():
            unfinished.replace(target)


def print_criteria(criteria: list[dict]) -> None:
    """One line per criterion: notebook, id, verdict, description, measured value; and how many have each verdict."""
    print()
    for row in criteria_table(criteria).itertuples():
        print(f"{row.notebook:<18} {row.id:<4} {row.verdict}  {row.description}: {row.measured}")
    print("\n" + count_verdicts(criteria))


def choose(notebooks: Sequence[str], parameters: Sequence[tuple[str, str]]) -> tuple[list[str], dict]:
    """What to run, of what the command line gives: names of notebooks (all for none) and values by parameter.

    A value is read as a Python literal, but stays a text where the notebook's own value is one.

    Raises ValueError for a notebook that is not there, a parameter that none of them has, one report file for several, and
    a folder for the results that cannot be used.
    """
    names = [Path(name).stem for name in notebooks] or notebook_names()
    for name in names:
        if not (NOTEBOOK_DIR / f"{name}.ipynb").is_file():
            raise ValueError(f"no notebook {name}.ipynb in notebooks/: choose from {', '.join(notebook_names())}")
    defaults = {}
    for name in names:
        defaults |= parameter_defaults(NOTEBOOK_DIR / f"{name}.ipynb")
    values = {}
    for name, text in parameters:
        if name not in defaults:
            raise ValueError(f"no notebook has a parameter {name}: choose from {', '.join(sorted(defaults))}")
        values[name] = text if isinstance(literal(defaults[name]), str) else literal(text)
    if os.environ.get("REPORT_PATH", "").endswith(".txt") and len(names) > 1:
        raise ValueError("REPORT_PATH names one file for several notebooks: give it a folder")
    _check_folder(paths.report_path(names[0], values.get("OUTPUT_DIR", "")).parent)
    return names, values


def _check_folder(folder: Path) -> None:
    """Make the folder for the results. Raises ValueError where nothing can be written, or where the notebooks lie."""
    if folder == NOTEBOOK_DIR:
        raise ValueError(f"{folder} holds the notebooks, which a run must not replace: choose a folder such as results/mine")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(f"no results can be written to {folder} ({error}): give another OUTPUT_DIR or REPORT_PATH") from error


def literal(text: str):
    """A Python literal (`4`, `0.5`, `True`, `[1, 2]`), or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
