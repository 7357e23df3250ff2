"""The grid of a sweep: which values each parameter takes, and the name of the folder of each combination."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

from kvlib.lab.report import paths
from kvlib.lab.sweep.notebook import check_values, parameter_defaults
from kvlib.lab.sweep.slurm import SlurmConfig, read_slurm

NAME_LENGTH = 200  # bytes of a folder's name; file systems allow 255
COLUMNS = [
    "status",
    "seconds",
    "name",
    "value",
    "n",
    "low",
    "high",
    "unit",
    "verdict",
    "text",
]  # the sweep sets them

# YAML 1.1 reads `1e-3`, without a point, as a text.
Exponent = Annotated[str, StringConstraints(pattern=r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), AfterValidator(float)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Value = TypeAliasType(
    "Value",
    Annotated[
        StrictBool | StrictInt | Finite | Exponent | StrictStr | None | list["Value"] | dict[StrictStr, "Value"],
        Field(union_mode="left_to_right"),
    ],
)
VALUES = TypeAdapter(list[Value])


class SweepError(RuntimeError):
    """A sweep cannot start where it was asked to."""


@dataclass(frozen=True)
class Sweep:
    """What to run: `notebook` with every combination of the values in `grid`, {parameter: values}; results go to `out`.

    measure: the measurement to draw, None for the first that differs between runs. scheduler: the address of a running
    Dask cluster; slurm: how to start workers on a SLURM cluster; with neither, the runs take place on this machine.
    """

    notebook: Path
    grid: dict[str, list]
    out: Path
    measure: str | None = None
    scheduler: str | None = None
    slurm: SlurmConfig | None = None

    def runs(self) -> dict[str, dict]:
        """Every combination of the values: {folder's name: {parameter: value}}."""
        combinations = (dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))
        return {run_name(values): values for values in combinations}


def read_sweep(
    notebook: str | Path,
    grid: Iterable[str],
    out: str | None = None,
    measure: str | None = None,
    scheduler: str | None = None,
    slurm: str | None = None,
) -> Sweep:
    """A sweep as it is given on the command line: `grid` holds texts such as "CHUNK_FRAMES=2,4", `slurm` a file's path.

    The parameters and the inputs of every run of a workbook's notebook are checked. Raises FileNotFoundError for a missing
    notebook and ValueError for everything else that cannot be swept.
    """
    if scheduler and slurm:
        raise ValueError("--scheduler and --slurm: give one of them, the workers come from one place")
    path = paths.resolve(notebook)
    if not path.is_file():
        raise FileNotFoundError(f"no notebook at {path}: give the path of an .ipynb file")
    found = read_grid(grid, parameter_defaults(path).keys())
    folder = Path.cwd() / Path(out).expanduser() if out else paths.RESULTS / "sweeps" / path.stem
    sweep = Sweep(path, found, folder.resolve(), measure, scheduler, read_slurm(slurm) if slurm else None)
    check_values(path, {f"run {name}": values for name, values in sweep.runs().items()})
    return sweep


def read_grid(given: Iterable[str], known: Set[str]) -> dict[str, list]:
    """{parameter: values} of texts such as "CHUNK_FRAMES=2,4", for a notebook with the parameters `known`.

    Raises ValueError for what cannot be swept.
    """
    given = list(given)
    if not given:
        raise ValueError("the grid is empty: give at least one -g NAME=VALUE,VALUE")
    if "OUTPUT_DIR" not in known:
        raise ValueError("the notebook has no parameter OUTPUT_DIR: its parameters cell needs one, the folder of its report")
    grid = {}
    for argument in given:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise ValueError(f"-g {argument}: write it as NAME=VALUE,VALUE")
        if name == "OUTPUT_DIR" or name in COLUMNS:
            raise ValueError(f"-g {argument}: {name} is set by the sweep itself; choose another parameter")
        if name not in known:
            raise ValueError(f"the notebook has no parameter {name}: choose from {', '.join(sorted(known - {'OUTPUT_DIR'}))}")
        if name in grid:
            raise ValueError(f"-g {argument}: {name} is given twice; list all its values in one -g")
        grid[name] = read_values(argument, text)
    return grid


def read_values(argument: str, text: str) -> list:
    """The values in `text`, a comma-separated list of YAML values; `argument` is what an error message names.

    Numbers, truth values, texts, null, lists and mappings of these. Raises ValueError for anything else, for no value and
    for a value that is given twice.
    """
    try:
        values = VALUES.validate_python(yaml.safe_load(f"[{text}]"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"-g {argument}: not a list of YAML values, put odd texts in quotes ({reason})") from error
    except ValidationError as error:
        wrong = error.errors()[0]["input"]
        raise ValueError(
            f"-g {argument}: not a list of YAML values, put odd texts in quotes ({wrong!r} is read as {type(wrong).__name__})"
        ) from error
    if not values:
        raise ValueError(f"-g {argument}: no values; the grid would be empty")
    names = [value_name(value) for value in values]
    if len(set(names)) < len(names):
        raise ValueError(f"-g {argument}: a value is given twice")
    return values


def run_name(values: dict) -> str:
    """A run's folder: `NAME=value,NAME=value`, with a checksum where a value cannot be part of a file's name as it is."""
    name = ",".join(f"{key}={value_name(value)}" for key, value in values.items())
    return name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}~{checksum(name)[:8]}"


def value_name(value) -> str:
    """A value as part of a folder's name; different values have different names."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    name = re.sub(r"[^\w.,+\[\]-]+", "_", text, flags=re.ASCII)[:60]
    looks_like_text = text[:1].isalpha() and text not in ("true", "false", "null")
    if name == text and looks_like_text == isinstance(value, str):
        return name
    return f"{name}~{checksum(json.dumps(value))[:8]}"


def checksum(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
