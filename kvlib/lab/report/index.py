"""One page to open after a run: the criteria, then every notebook as executed, its report, and the figures with captions."""

import json
import os
from html import escape
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from kvlib.lab.report.report import write_atomic

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
.PASS { color: #006b4f } .FAIL { color: #b00020; font-weight: bold } .WARN { color: #8a5a00 }
figure { margin: 2rem 0 } img { max-width: 100% } figcaption { color: #444 }
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def write_index(results: Path, figures: Path) -> Path:
    """Write `results`/index.html of the reports and executed notebooks in `results` and the figures in `figures`; its path.

    Notebooks are converted to HTML beside it. Notebooks without a report, and reports without a notebook, are listed too.
    """
    reports = {path.name.removesuffix("_report.json"): json.loads(path.read_text()) for path in results.glob("*_report.json")}
    notebooks = {path.stem: _as_html(path) for path in sorted(results.glob("*.ipynb"))}
    parts = [f"<h1>kvlib: the last run</h1>{_criteria(reports)}<h2>Notebooks and reports</h2><ul>"]
    for name in sorted({*reports, *notebooks}):
        links = [_link(notebooks[name], results, "as executed")] if name in notebooks else []
        links += [_link(results / f"{name}_report.{kind}", results, f"report ({kind})") for kind in ("txt", "json")]
        conclusion = escape(reports[name]["conclusion"]) if name in reports else "no report: it did not finish"
        parts.append(f"<li><b>{escape(name)}</b>: {', '.join(links)}<br>{conclusion}</li>")
    parts += ["</ul><h2>Figures</h2>", *(_figure(path, results) for path in sorted((figures / "data").glob("*.json")))]
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>kvlib</title><style>{STYLE}</style>"
    write_atomic(results / "index.html", f"{head}{''.join(parts)}</html>")
    return results / "index.html"


def _criteria(reports: dict[str, dict]) -> str:
    rows = [{"notebook": name, **row} for name, found in sorted(reports.items()) for row in found["criteria"]]
    if not rows:
        return "<p>No criterion was judged.</p>"
    table = pd.DataFrame(rows)[["notebook", "id", "verdict", "description", "measured"]]
    marked = table.map(lambda value: escape(f"{value:.4g}" if isinstance(value, float) else str(value)))
    marked["verdict"] = [f"<span class='{verdict}'>{verdict}</span>" for verdict in table["verdict"]]
    counts = ", ".join(f"{(table['verdict'] == verdict).sum()} {verdict}" for verdict in ("PASS", "WARN", "FAIL"))
    return f"<p>{counts}</p>" + marked.to_html(index=False, escape=False, border=0)


def _as_html(path: Path) -> Path:
    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):  # a panel's summary: without a kernel the panel is dead
            output["data"].pop(WIDGET, None)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    target = path.with_suffix(".html")
    write_atomic(target, page)
    return target


def _link(path: Path, base: Path, text: str) -> str:
    return f"<a href='{escape(os.path.relpath(path, base))}'>{escape(text)}</a>" if path.is_file() else escape(f"no {text}")


def _figure(record: Path, base: Path) -> str:
    image = record.parent.parent / f"{record.stem}.png"
    caption = escape(json.loads(record.read_text())["caption"])
    source = escape(os.path.relpath(image, base))
    data = _link(record, base, "data")
    return (
        f"<figure><img src='{source}' alt='{caption}'><figcaption><b>{record.stem}</b> {caption} ({data})</figcaption></figure>"
    )
