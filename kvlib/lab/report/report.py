"""What an experiment found, and what it was found with: criteria, measurements and provenance.

A notebook makes one `Report`, adds to it while it runs, and writes it at the end: as text for people, and as JSON for the
page of the run, the sweeps and later analyses.
"""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from kvlib.lab.report import paths
from kvlib.lab.report.criteria import FAIL, PASS, WARN, criteria_table, value_text
from kvlib.lab.report.files import as_json, write_atomic
from kvlib.lab.report.provenance import device_name, git_state, versions
from kvlib.lab.report.text import Paragraph, printable

# Notebooks show tables of texts from videos, in which "$" is a dollar sign and not the start of a formula.
pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)


class Report:
    """Criteria, measurements and conclusion of one run of one experiment.

    Args:
        experiment: the notebook's name without its suffix, such as "02_oom_free"; it names the report's files.
        parameters: the values the run really used; paths inside the repository are shown relative to it.
        seed: the seed of everything random in the run.
        device: where the model ran, a `torch.device` or its name.
        output_dir: "" for `results/` and `results/figures/`; otherwise one folder for the report and the figures.
            Relative ones lie in the repository.
    """

    def __init__(self, experiment: str, parameters: dict, seed: int, device: torch.device | str, output_dir: str = ""):
        self.experiment = experiment
        self.parameters = {name: paths.shown(value) for name, value in parameters.items()}
        self.seed = seed
        self.device = device_name(device)
        self.output_dir = output_dir
        self.criteria: list[dict] = []
        self.measurements: list[dict] = []
        self.conclusion = Paragraph()

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

    def conclude(self, text: str) -> Paragraph:
        """Set the conclusion and return it. Jupyter shows it as it is written, because it may quote a text of the video."""
        self.conclusion = Paragraph(text)
        return self.conclusion

    def save_table(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table as `<experiment>_<name>.csv` beside the report, for later analyses; return its path."""
        path = paths.report_path(self.experiment, self.output_dir).with_name(f"{self.experiment}_{name}.csv")
        write_atomic(path, table.to_csv(index=False))
        return path

    def table(self) -> Styler:
        """The criteria, one row each, for display in a notebook."""
        return full_text(criteria_table(self.criteria))

    def provenance(self) -> dict:
        """What made the numbers: parameters, seed, device and versions. The same run gives the same dictionary."""
        return {
            "experiment": self.experiment,
            "parameters": self.parameters,
            "seed": self.seed,
            "device": self.device,
            "versions": versions(),
        }

    def as_dict(self) -> dict:
        """Everything in plain JSON types, for `write`: NaN and infinity become None."""
        return as_json(
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
        """Write `<experiment>_report.txt` and `.json` to the folder of `paths.report_path`; return the text's path."""
        content = self.as_dict()
        path = paths.report_path(self.experiment, self.output_dir)
        write_atomic(path.with_suffix(".json"), json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        write_atomic(path, _as_text(content))
        return path


def full_text(table: pd.DataFrame) -> Styler:
    """A table for display in a notebook, whose texts are whole and aligned left; pandas would cut them at 50 characters.

    HTML, formulas between dollar signs and control characters in a text or a column's name are shown as they are written,
    because a measured text may come from a video.
    """
    table = table.map(_shown).rename(columns=_shown)
    left = {"text-align": "left", "white-space": "pre-wrap"}
    heads = [{"selector": "th", "props": [("text-align", "left")]}]
    shown = table.style.hide(axis="index").set_properties(**left).set_table_styles(heads)
    return shown.format(precision=3, escape="html").format_index(axis="columns", escape="html")


def _shown(value):
    return printable(value, keep="\n") if isinstance(value, str) else value


def _as_text(content: dict) -> str:
    commit = content["git"]["commit"] or "unknown"
    dirty = " with uncommitted changes" if content["git"]["dirty"] else ""
    used = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    criteria = criteria_table(content["criteria"]).itertuples()
    lines = [
        f"Report of {content['experiment']}",
        "",
        f"written   {content['written_utc']}",
        f"device    {content['device']}",
        f"versions  {used}",
        f"commit    {commit}{dirty}",
        f"seed      {content['seed']}",
        "",
        "Parameters",
        *(f"  {name} = {value!r}" for name, value in content["parameters"].items()),
        "",
        "Criteria",
        *(f"  {row.verdict}  [{row.id}] {row.description}: {row.measured}" for row in criteria),
        "",
        "Measurements",
        *(f"  {_measurement(m)}" for m in content["measurements"]),
        "",
        "Conclusion",
        *(f"  {line}" for line in (content["conclusion"] or "none").split("\n")),
    ]
    return "\n".join(map(printable, lines)) + "\n"


def _measurement(measured: dict) -> str:
    text = f"{measured['name']}: {value_text(measured['value'])}"
    if measured["unit"]:
        text += f" {measured['unit']}"
    if measured["interval"]:
        low, high = measured["interval"]
        text += f" (95% interval {value_text(low)} to {value_text(high)})"
    return text + (f", n = {measured['n']}" if measured["n"] is not None else "")
