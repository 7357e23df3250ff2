"""Executing one notebook with papermill, for the sweep and for `kvlib workbook`."""

import ast
import traceback
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from kvlib.lab.study.parameters import NOTEBOOKS, check_inputs, check_parameters

ERROR_LINES = 15  # of a traceback, shown on the terminal
INPUTS = ("MODEL_PATH", "VIDEO_PATH", "CHUNK_FRAMES", "SAMPLE_FPS", "ASK_INTERVAL")  # parameters that name or cut up inputs
QUIET = ["--log-level=CRITICAL"]  # the kernel's own log would stand in the middle of our lines


def parameter_defaults(path: Path) -> dict[str, str]:
    """What the notebook's parameters cell holds: {name: value as Python source}."""
    return {name: found["default"] for name, found in papermill.inspect_notebook(path).items()}


def check_values(path: Path, runs: dict[str, dict]) -> None:
    """Check the parameters and the inputs of every run of one of the workbook's notebooks, before any of them starts.

    runs: {name: values that differ from the notebook's own}. A notebook that is not one of the workbook's is not checked.
    Raises ValueError that names the run; FileNotFoundError and PermissionError become one too.
    """
    if path.stem not in NOTEBOOKS:
        return
    cell = next(cell for cell in nbformat.read(path, as_version=4).cells if "parameters" in cell.metadata.get("tags", []))
    own = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}
    opened = set()
    for name, values in runs.items():
        try:
            settings = check_parameters(path.stem, **own | values)
            inputs = tuple(str(getattr(settings, key, None)) for key in INPUTS)
            if inputs not in opened:
                check_inputs(settings)
            opened.add(inputs)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: {error}" if name else str(error)) from error


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
