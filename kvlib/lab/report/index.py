"""The page of a run: what it was made with, conclusions with links to notebooks and reports, criteria, and figures."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import nbformat
from jinja2 import Environment
from markupsafe import Markup
from nbconvert import HTMLExporter

from kvlib.lab.report import paths
from kvlib.lab.report.criteria import COLUMNS, FAIL, PASS, WARN, count_verdicts, criteria_table
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.page import PAGE
from kvlib.lab.report.text import printable

WIDGET = "application/vnd.jupyter.widget-view+json"
NO_REPORT = "It left no report: it did not finish."
FACTS = ("written", "commit", "device", "model")  # of all runs, at the top of the page


@dataclass(frozen=True)
class Run:
    """What is known of one run: its report's file and content, and what is wrong with it. `made_with`: see `_made_with`."""

    name: str
    report: Path | None = None
    criteria: list[dict] = field(default_factory=list)
    conclusion: str = ""
    problem: str = ""
    made_with: dict[str, str] = field(default_factory=dict)


def write_index(results: Path, figures: Path, report: Path | None = None) -> Path:
    """Write `results`/index.html, with the pictures in it, and return its path.

    The page shows the reports and executed notebooks in `results` and the figures in `figures`: when, where and with what they
    were made, their conclusions, the criteria, and the figures. Notebooks are converted to HTML beside it. A notebook without
    a report and a report without a notebook are listed too. A file that cannot be read is listed with its error and does not
    stop the page. Texts are shown as they are written.

    Args:
        report: a report in `results` whose file is not called `<notebook>_report.json`.
    """
    files = {*results.glob("*_report.json"), *([report] if report else [])}
    reports, bad_reports = _read_each(files, _read_report)
    notebooks, bad_notebooks = _read_each((path for path in results.glob("*.ipynb") if path.name[0] != "."), _convert)
    captions, bad_captions = _read_each((figures / "data").glob("*.json"), _read_caption)
    pictures, bad_pictures = _read_each((_image(path) for path in captions if _image(path).exists()), _read_pixels)
    runs = {path.stem: Run(path.stem, problem=NO_REPORT) for path in [*notebooks, *bad_notebooks]}
    runs |= {_experiment(path): Run(_experiment(path), path, problem="Its report cannot be read.") for path in bad_reports}
    runs |= {run.name: run for run in reports.values()}
    executed = {path.stem: found for path, found in notebooks.items()}
    shown = [_shown_run(runs[name], *executed.get(name, ("", "")), results) for name in sorted(runs)]
    criteria = [{"notebook": run["name"], **row} for run in shown for row in run["criteria"]]
    page = Environment(autoescape=True, trim_blocks=True, finalize=_as_written).from_string(PAGE)
    content = page.render(
        facts=_common_facts([runs[name] for name in sorted(runs)]),
        criteria=criteria_table(criteria).to_dict("records"),
        counts=count_verdicts(criteria),
        unfinished=sum(bool(run["problem"]) for run in shown),
        unreadable={path.name: error for path, error in (bad_reports | bad_notebooks | bad_captions | bad_pictures).items()},
        runs=shown,
        figures=[
            {
                "name": path.stem,
                "caption": caption,
                "image": _address(_image(path), results) if _image(path) in pictures else "",
                "pixels": pictures.get(_image(path), ""),
                "data": _address(path, results),
            }
            for path, caption in captions.items()
        ],
    )
    write_atomic(results / "index.html", content)
    return results / "index.html"


def _shown_run(run: Run, title: str, error: str, results: Path) -> dict:
    """A run as the page shows it. title, error: of its executed notebook, see `_convert`."""
    verdicts = {row["verdict"] for row in run.criteria} | ({FAIL} if run.problem or error else set())
    problem = f"It stopped with an error: {error}" if error else run.problem
    return {
        "name": run.name,
        "title": title,
        "verdict": next((verdict for verdict in (FAIL, WARN, PASS) if verdict in verdicts), ""),
        "problem": problem,
        "conclusion": run.conclusion,
        "criteria": run.criteria,
        "counts": count_verdicts(run.criteria),
        "links": _links(results, run.name, run.report or results / f"{run.name}_report.json"),
        "made_with": run.made_with,
    }


def _common_facts(runs: list[Run]) -> dict[str, list[str]]:
    """The values of `FACTS` that the runs have, each once, in the order of the runs. Of the times only the first and last."""
    facts = {name: list(dict.fromkeys(run.made_with[name] for run in runs if name in run.made_with)) for name in FACTS}
    times = sorted(facts["written"])
    facts["written"] = [f"{times[0]} to {times[-1]}"] if len(times) > 1 else times
    return {name: values for name, values in facts.items() if values}


def _as_written(value):
    """What the page shows of a value: a text with its control characters as escapes. HTML of the page itself stays."""
    return value if isinstance(value, Markup) else printable(str(value), keep="\n")


def _read_each(paths: Iterable[Path], read: Callable[[Path], object]) -> tuple[dict[Path, object], dict[Path, str]]:
    """What `read` returns for every file, and the errors of the files for which it raises."""
    found, errors = {}, {}
    for path in sorted(paths):
        try:
            if not path.is_file():  # a folder, a link to nothing, or a pipe, which would be waited for
                raise FileNotFoundError("not a file")
            found[path] = read(path)
        except Exception as error:  # whatever is wrong with one file, the page shows the others
            errors[path] = f"{type(error).__name__}: {error}"
    return found, errors


def _read_report(path: Path) -> Run:
    content = json.loads(path.read_text(encoding="utf-8"))
    criteria = [{key: row[key] for key in COLUMNS} for row in content["criteria"]]
    criteria_table(criteria)  # what cannot be shown is found here, where it is one broken file
    name = _experiment(path) if path.name.endswith("_report.json") else str(content["experiment"])
    return Run(name, path, criteria, str(content["conclusion"]), made_with=_made_with(content))


def _made_with(content: dict) -> dict[str, str]:
    """When, where and with what a report's numbers were made, in words. What an unusual report does not say is left out."""
    git, parameters = content.get("git") or {}, content.get("parameters") or {}
    commit = git.get("commit")
    model = parameters.get("MODEL_PATH")
    found = {
        "written": str(content.get("written_utc") or "").replace("T", " ").replace("+00:00", " UTC"),
        "commit": f"{commit}{' with uncommitted changes' if git.get('dirty') else ''}" if commit else "",
        "device": content.get("device"),
        "model": f"{model} (the embedded reader)" if model == paths.DEFAULT_MODEL else model,
        "video": parameters.get("VIDEO_PATH"),
        "versions": ", ".join(f"{name} {version}" for name, version in (content.get("versions") or {}).items()),
        "seed": content.get("seed"),
        "parameters": ", ".join(f"{name} = {value!r}" for name, value in parameters.items()),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _read_caption(path: Path) -> str:
    return json.loads(path.read_text(encoding="utf-8"))["caption"]


def _read_pixels(image: Path) -> str:
    """The content of a picture as an address, so that the page can be sent or opened without its folder."""
    return f"data:image/png;base64,{b64encode(image.read_bytes()).decode()}"


def _convert(path: Path) -> tuple[str, str]:
    """Write an executed notebook as HTML beside it; the HTML of an earlier run is deleted first.

    Returns its title, which is its first heading, and its first error, "" where there is none.
    """
    target = path.with_suffix(".html")
    target.unlink(missing_ok=True)
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if "text/html" in output.get("data", {}):  # a panel's summary: without a kernel the panel does nothing
            output["data"].pop(WIDGET, None)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    write_atomic(target, page)
    heads = (re.match(r"# (?:\d+ · )?(.+)", cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    errors = (f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error")
    return next((head.group(1) for head in heads if head), ""), next(errors, "")


def _experiment(report: Path) -> str:
    """The notebook's name, from the name of its report."""
    return report.name.removesuffix("_report.json")


def _links(results: Path, name: str, report: Path) -> dict[str, str]:
    """The texts of a run's links and their addresses, "" for a file that is not there."""
    files = {"as executed": results / f"{name}.html"} if (results / f"{name}.ipynb").is_file() else {}
    files |= {f"report ({kind})": report.with_suffix(f".{kind}") for kind in ("txt", "json")}
    return {text: _address(file, results) if file.is_file() else "" for text, file in files.items()}


def _image(record: Path) -> Path:
    """The picture of a figure's record in data/: the English one, or the Chinese one where only that was drawn."""
    folder = record.parent.parent
    chinese = folder / f"{record.stem}_zh.png"
    english = folder / f"{record.stem}.png"
    return chinese if chinese.is_file() and not english.is_file() else english


def _address(path: Path, base: Path) -> str:
    """The address of a file in a page that lies in `base`."""
    return quote(Path(os.path.relpath(path, base)).as_posix(), errors="surrogateescape")
