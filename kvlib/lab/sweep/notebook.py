"""Executing one notebook with papermill, for the sweep and for `kvlib workbook`."""

import traceback
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

ERROR_LINES = 15  # of a traceback, shown on the terminal
QUIET = ["--log-level=CRITICAL"]  # the kernel's own log would stand in the middle of our lines


def parameter_defaults(path: Path) -> dict[str, str]:
    """What the notebook's parameters cell holds: {name: value as Python source}."""
    return {name: found["default"] for name, found in papermill.inspect_notebook(path).items()}


def execute(source: Path, target: Path, parameters: dict, log=None) -> str:
    """Execute the notebook `source` into `target`, which may be the same file; what the cells print goes to the file `log`.

    Returns "" or the traceback of what stopped it: a cell that raised, a dead kernel, a broken notebook, a full disk.
    """
    try:
        papermill.execute_notebook(
            source, target, parameters, kernel_name="python3", progress_bar=False, extra_arguments=QUIET,
            stdout_file=log, stderr_file=log,
        )  # fmt: skip
    except PapermillExecutionError as error:
        return str(error).strip()
    except Exception:  # one broken notebook must not stop the others
        return traceback.format_exc().strip()
    return ""


def last_lines(error: str) -> str:
    """The end of a traceback, indented, for the terminal."""
    return "\n".join(f"    {line}" for line in error.splitlines()[-ERROR_LINES:])
