"""The page of a run: the criteria, then every notebook as executed, its report, and the figures with captions."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import nbformat
from jinja2 import Environment
from markupsafe import Markup
from nbconvert import HTMLExporter

from kvlib.lab.report.criteria import COLUMNS, count_verdicts, criteria_table
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.text import printable

WIDGET = "application/vnd.jupyter.widget-view+json"
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>kvlib</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
.PASS { color: #006b4f } .FAIL { color: #b00020; font-weight: bold } .WARN { color: #8a5a00 }
figure { margin: 2rem 0 } img { max-width: 100% } figcaption { color: #444 }
</style>
{% macro link(text, target) -%}
{% if target %}<a href="{{ target }}">{{ text }}</a>{% else %}no {{ text }}{% endif %}
{%- endmacro %}
<h1>kvlib: the last run</h1>
{% if criteria %}
<p>{{ counts }}</p>
<table>
<tr>{% for name in criteria[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in criteria %}
<tr>
{% for name, text in row.items() %}
<td class="{{ text if name == "verdict" }}">{{ text }}</td>
{% endfor %}
</tr>
{% endfor %}
</table>
{% else %}
<p>No criterion was judged.</p>
{% endif %}
{% if unreadable %}
<h2>Unreadable files</h2>
<ul>
{% for file, error in unreadable.items() %}<li><b>{{ file }}</b>: {{ error }}</li>
{% endfor %}
</ul>
{% endif %}
<h2>Notebooks and reports</h2>
<ul>
{% for run in runs %}
<li><b>{{ run.name }}</b>:
{% for text, target in run.links.items() %}
{{ link(text, target) }}{{ "," if not loop.last }}
{% endfor %}
<br>{{ run.conclusion }}</li>
{% endfor %}
</ul>
<h2>Figures</h2>
{% for figure in figures %}
<figure>{% if figure.image %}<img src="{{ figure.image }}" alt="{{ figure.caption }}">{% else %}no picture{% endif %}

<figcaption><b>{{ figure.name }}</b> {{ figure.caption }} ({{ link("data", figure.data) }})</figcaption></figure>
{% endfor %}
</html>
"""


def write_index(results: Path, figures: Path, report: Path | None = None) -> Path:
    """Write `results`/index.html and return its path.

    The page shows the reports and executed notebooks in `results` and the figures in `figures`. Notebooks are converted to
    HTML beside it. A notebook without a report and a report without a notebook are listed too. A file that cannot be read
    is listed with its error and does not stop the page. Texts are shown as they are written.

    Args:
        report: a report in `results` whose file is not called `<notebook>_report.json`.
    """
    files = {*results.glob("*_report.json"), *([report] if report else [])}
    reports, bad_reports = _read_each(files, _read_report)
    notebooks, bad_notebooks = _read_each((path for path in results.glob("*.ipynb") if path.name[0] != "."), _convert)
    captions, bad_captions = _read_each((figures / "data").glob("*.json"), _read_caption)
    criteria = [{"notebook": found["experiment"], **row} for found in reports.values() for row in found["criteria"]]
    texts = {found["experiment"]: path.with_suffix(".txt") for path, found in reports.items()}
    texts |= {_experiment(path): path.with_suffix(".txt") for path in bad_reports}
    conclusions = {_experiment(path): "its report cannot be read" for path in bad_reports}
    conclusions |= {found["experiment"]: found["conclusion"] for found in reports.values()}
    page = Environment(autoescape=True, trim_blocks=True, finalize=_as_written).from_string(PAGE)
    content = page.render(
        criteria=criteria_table(criteria).to_dict("records"),
        counts=count_verdicts(criteria),
        unreadable={path.name: error for path, error in (bad_reports | bad_notebooks | bad_captions).items()},
        runs=[
            {
                "name": name,
                "links": _links(results, name, texts.get(name, results / f"{name}_report.txt")),
                "conclusion": conclusions.get(name, "no report: it did not finish"),
            }
            for name in sorted({*conclusions, *(path.stem for path in [*notebooks, *bad_notebooks])})
        ],
        figures=[
            {
                "name": path.stem,
                "caption": caption,
                "image": _address(_image(path), results) if _image(path).is_file() else "",
                "data": _address(path, results),
            }
            for path, caption in captions.items()
        ],
    )
    write_atomic(results / "index.html", content)
    return results / "index.html"


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


def _read_report(path: Path) -> dict:
    content = json.loads(path.read_text(encoding="utf-8"))
    criteria = [{key: row[key] for key in COLUMNS} for row in content["criteria"]]
    criteria_table(criteria)  # what cannot be shown is found here, where it is one broken file
    name = _experiment(path) if path.name.endswith("_report.json") else str(content["experiment"])
    return {"experiment": name, "criteria": criteria, "conclusion": content["conclusion"]}


def _read_caption(path: Path) -> str:
    return json.loads(path.read_text(encoding="utf-8"))["caption"]


def _convert(path: Path) -> None:
    """Write an executed notebook as HTML beside it; the HTML of an earlier run is deleted first."""
    target = path.with_suffix(".html")
    target.unlink(missing_ok=True)
    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):  # a panel's summary: without a kernel the panel does nothing
            output["data"].pop(WIDGET, None)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    write_atomic(target, page)


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
