"""The page of a run: what is on it, and that its links lead somewhere."""

import re

import nbformat
import pandas as pd

from kvlib.lab.figures import recipes as figures
from kvlib.lab.report import index
from kvlib.lab.report.report import Report


def finished(tmp_path, name: str, verdict: bool) -> Report:
    report = Report(name, {}, 0, "cpu", str(tmp_path))
    report.check("A1", "less than <five>", 4.123456, verdict)
    report.conclude("All & well.")
    report.write()
    return report


def test_criteria_come_first_and_every_link_leads_to_a_file(tmp_path):
    report = finished(tmp_path, "01_sink_detection", True)
    finished(tmp_path, "02_oom_free", False)
    cell = nbformat.v4.new_markdown_cell("# A heading to find")
    for name in ("01_sink_detection", "03_periodic_ask"):
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    drift = pd.DataFrame(dict(turns=[1, 10], method=["chain", "chain"], error=[0.1, 0.2]))
    figures.make("05_drift", report, drift=drift)
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert page.index("1 PASS, 0 WARN, 1 FAIL") < page.index("Notebooks and reports") < page.index("Figures")
    assert "less than &lt;five&gt;" in page and "4.123" in page and "All &amp; well." in page
    assert "<span class='FAIL'>FAIL</span>" in page
    assert "03_periodic_ask</b>" in page and "no report: it did not finish" in page
    links = re.findall(r"(?:href|src)='([^']*)'", page)
    assert len(links) == 2 * 2 + 2 + 2, "two reports each, two notebooks, a picture and its data"
    assert all((tmp_path / link).is_file() for link in links)
    assert "A heading to find" in (tmp_path / "01_sink_detection.html").read_text()


def test_a_run_that_left_nothing_has_a_page_that_says_so(tmp_path):
    assert "No criterion was judged" in index.write_index(tmp_path, tmp_path).read_text()


def test_a_panel_stands_on_the_page_as_its_summary(tmp_path):
    shown = {index.WIDGET: {"model_id": "1", "version_major": 2, "version_minor": 0}, "text/html": "the <i>panel</i>"}
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", shown)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "02_oom_free.ipynb")
    index.write_index(tmp_path, tmp_path)
    page = (tmp_path / "02_oom_free.html").read_text()
    assert "the <i>panel</i>" in page and "model_id" not in page
