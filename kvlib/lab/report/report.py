"""What an experiment found, and what it was found with: criteria, measurements and provenance.

A notebook makes one `Report`, adds to it as it goes, and writes it at the end, as text for people and as JSON for
`kvlib.lab.workbook` and later analyses.
"""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from kvlib.lab.report import paths

PASS, FAIL, WARN = "PASS", "FAIL", "WARN"


class Report:
    """Criteria, measurements and conclusion of one run of one experiment.

    Args:
        experiment: the notebook's name without its suffix, such as "02_oom_free"; it names the report's files.
        parameters: the values the run really used; paths inside the repository are shown relative to it.
        seed: the seed of everything random in the run.
        device: where the model ran, a `torch.device` or its name.
        output_dir: "" for `results/` and `figures/`; otherwise one folder for the report and the figures, so that a
            small or a special run leaves the committed figures alone. Relative ones lie in the repository.
    """

    def __init__(self, experiment: str, parameters: dict, seed: int, device: torch.device | str, output_dir: str = ""):
        self.experiment = experiment
        self.parameters = {name: paths.shown(value) for name, value in parameters.items()}
        self.seed = seed
        self.device = device_name(device)
        self.output_dir = output_dir
        self.criteria: list[dict] = []
        self.measurements: list[dict] = []
        self.conclusion = ""

    def check(self, id: str, description: str, measured, passed: bool | None) -> str:
        """Record a criterion and return its verdict: PASS, FAIL, or WARN when `passed` is None (cannot be judged).

        Raises ValueError when the id was used before.
        """
        if any(c["id"] == id for c in self.criteria):
            raise ValueError(f"criterion {id!r} was recorded twice: give each check of {self.experiment} its own id")
        verdict = WARN if passed is None else PASS if passed else FAIL
        self.criteria.append({"id": id, "description": description, "measured": measured, "verdict": verdict})
        return verdict

    def measure(self, name: str, value, n: int | None = None, interval: tuple | None = None, unit: str | None = None):
        """Record a value with its sample size, its 95% interval (low, high; NaN for none) and its unit, where it has them."""
        if interval is not None and any(math.isnan(bound) for bound in interval):
            interval = None
        self.measurements.append({"name": name, "value": value, "n": n, "interval": interval, "unit": unit})

    def conclude(self, text: str) -> str:
        """Set the conclusion and return it."""
        self.conclusion = text
        return text

    def save_table(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table as CSV beside the report, as `<experiment>_<name>.csv`, for figures to be redrawn from; its path."""
        path = paths.report_path(self.experiment, self.output_dir).with_name(f"{self.experiment}_{name}.csv")
        write_atomic(path, table.to_csv(index=False))
        return path

    def table(self) -> Styler:
        """The criteria, one row each, for display."""
        table = pd.DataFrame(self.criteria, columns=["id", "description", "measured", "verdict"])
        return full_text(table.assign(measured=table["measured"].map(_text)))

    def provenance(self) -> dict:
        """What made the numbers: parameters, seed, device and versions. The same run gives the same dictionary."""
        return {
            "experiment": self.experiment,
            "parameters": self.parameters,
            "seed": self.seed,
            "device": self.device,
            "versions": {"python": platform.python_version()}
            | {name: _version(name) for name in ("torch", "transformers", "kvlib")},
        }

    def as_dict(self) -> dict:
        """Everything, ready for JSON: no NaN or infinity (they become null), nothing but plain types."""
        return _plain(
            self.provenance()
            | {
                "git": git_state(),
                "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
                "criteria": self.criteria,
                "measurements": self.measurements,
                "conclusion": self.conclusion,
            }
        )

    def write(self) -> Path:
        """Write `<experiment>_report.txt` and `.json` where `kvlib.lab.report.paths.report_path` says; return the text's path."""
        content = self.as_dict()
        path = paths.report_path(self.experiment, self.output_dir)
        write_atomic(path.with_suffix(".json"), json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        write_atomic(path, _as_text(content))
        return path


def full_text(table: pd.DataFrame) -> Styler:
    """A table for display whose texts are whole and start at the left; pandas would cut them at 50 characters."""
    left = {"text-align": "left", "white-space": "pre-wrap"}
    heads = [{"selector": "th", "props": [("text-align", "left")]}]
    return table.style.hide(axis="index").set_properties(**left).set_table_styles(heads).format(precision=3)


def device_name(device: torch.device | str) -> str:
    """A device in words: the card and its memory, or the kind of CPU and the threads torch uses."""
    device = torch.device(device)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"{card.name}, {card.total_memory / 2**30:.1f} GiB"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def git_state() -> dict:
    """The repository's commit and whether files differ from it; figures do not count, since the notebooks redraw them.

    Both values are None where there is no git or no commit yet.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!figures")
    return {"commit": commit, "dirty": None if commit is None or changes is None else bool(changes)}


def write_atomic(path: Path, content: str | bytes):
    """Write a file so that nobody ever sees half of it; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # kvlib itself, run from a copy of its folder
        return "not installed"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _plain(value):
    """`value` in JSON's types: numpy and torch scalars unwrapped, non-finite floats null, the unknown as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else str(value)


def _as_text(content: dict) -> str:
    commit = content["git"]["commit"] or "unknown"
    dirty = " with uncommitted changes" if content["git"]["dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    lines = [
        f"Report of {content['experiment']}",
        "",
        f"written   {content['written_utc']}",
        f"device    {content['device']}",
        f"versions  {versions}",
        f"commit    {commit}{dirty}",
        f"seed      {content['seed']}",
        "",
        "Parameters",
        *(f"  {name} = {value!r}" for name, value in content["parameters"].items()),
        "",
        "Criteria",
        *(f"  {c['verdict']}  [{c['id']}] {c['description']}: {_text(c['measured'])}" for c in content["criteria"]),
        "",
        "Measurements",
        *(f"  {_measurement(m)}" for m in content["measurements"]),
        "",
        "Conclusion",
        f"  {content['conclusion'] or 'none'}",
    ]
    return "\n".join(lines) + "\n"


def _measurement(measured: dict) -> str:
    text = f"{measured['name']}: {_text(measured['value'])}"
    if measured["unit"]:
        text += f" {measured['unit']}"
    if measured["interval"]:
        low, high = measured["interval"]
        text += f" (95% interval {_text(low)} to {_text(high)})"
    return text + (f", n = {measured['n']}" if measured["n"] is not None else "")
