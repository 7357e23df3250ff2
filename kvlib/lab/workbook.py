"""Run the notebooks and print the table of criteria.

Executed copies, reports and a page that shows all of it go to `results/`, figures to `figures/`.
"""

import ast
import json
import os
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

    It is 1 when a notebook did not finish, left no report, or has a criterion that failed.
    """
    output = parameters.get("OUTPUT_DIR", "")
    criteria, unfinished = [], []
    for name in names:
        report = paths.report_path(name, output).with_suffix(".json")
        report.unlink(missing_ok=True)  # an old report must not stand for this run
        if run_notebook(name, parameters) and report.is_file():
            criteria += [{"notebook": name, **row} for row in json.loads(report.read_text())["criteria"]]
        else:
            unfinished.append(name)
    print_criteria(criteria)
    page = write_index(paths.report_path("", output).parent, paths.figure_dir(output))
    print(f"all of it on one page: {paths.shown(page)}")
    for name in unfinished:
        print(f"{name} did not finish with a report; see {paths.shown(paths.executed_path(name, output))}")
    return int(bool(unfinished) or any(row["verdict"] == FAIL for row in criteria))


def run_notebook(name: str, parameters: dict) -> bool:
    """Execute one notebook with those of the parameters it knows; report on one line; return whether it finished."""
    source, target = NOTEBOOK_DIR / f"{name}.ipynb", paths.executed_path(name, parameters.get("OUTPUT_DIR", ""))
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name} ", end="", flush=True)
    start = time.perf_counter()
    known = {key: parameters[key] for key in parameters.keys() & parameter_defaults(source).keys()}
    error = execute(source, target, known)
    print(f"{time.perf_counter() - start:.1f} s {'failed' if error else 'finished'}", flush=True)
    if error:
        print(last_lines(error), flush=True)
    return not error


def print_criteria(criteria: list[dict]) -> None:
    """One line per criterion: notebook, id, verdict, description, measured value; and how many have each verdict."""
    print()
    for row in criteria_table(criteria).itertuples():
        print(f"{row.notebook:<18} {row.id:<4} {row.verdict}  {row.description}: {row.measured}")
    print("\n" + count_verdicts(criteria))


def choose(notebooks: Sequence[str], parameters: Sequence[tuple[str, str]]) -> tuple[list[str], dict]:
    """What to run, of what the command line gives: names of notebooks (all for none) and values by parameter.

    A value is read as a Python literal, but stays a text where the notebook's own value is one.

    Raises ValueError for a notebook that is not there, a parameter that none of them has, and one report file for several.
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
    return names, values


def literal(text: str):
    """A Python literal (`4`, `0.5`, `True`, `[1, 2]`), or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
