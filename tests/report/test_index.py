"""The page of a run: what is on it, and that its links lead somewhere."""

import os
import re
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest

from kvlib.lab.figures import recipes as figures
from kvlib.lab.report import index, paths
from kvlib.lab.report.report import Report


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    for name in ("REPORT_PATH", "FIGURE_LANG"):
        monkeypatch.delenv(name, raising=False)


def finished(tmp_path, name: str, verdict: bool) -> Report:
    report = Report(name, {}, 0, "cpu", str(tmp_path))
    report.check("A1", "less than <five>", 4.123456, verdict)
    report.conclude("All & well.")
    report.write()
    return report


def links_of(page: str) -> list[str]:
    return [unquote(link) for link in re.findall(r'(?:href|src)="([^"]*)"', page)]


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
    assert '<td class="FAIL">FAIL</td>' in page
    assert "03_periodic_ask</b>" in page and "no report: it did not finish" in page
    links = links_of(page)
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


def test_texts_of_a_run_are_shown_as_text(tmp_path):
    report = Report("02_oom_free", {}, 0, "cpu", str(tmp_path))
    report.check("<i>P5</i>", "the answer", "<b>x</b>", True)
    report.conclude("<script>alert(1)</script>")
    report.write()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "05.json").write_text('{"caption": "\\"><b>c</b>"}')
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert not re.search("<(b>x|i>P5|script|b>c)", page)
    for shown in ("&lt;b&gt;x&lt;/b&gt;", "&lt;i&gt;P5", "&lt;script&gt;", "&lt;b&gt;c&lt;/b&gt;"):
        assert shown in page


BROKEN = ["", "{", "[1, 2]", '{"criteria": 3}', '{"criteria": [{"id": 1}], "conclusion": ""}', "\xff"]


@pytest.mark.parametrize("content", BROKEN)
def test_an_unreadable_report_is_named_and_the_others_are_shown(tmp_path, content):
    finished(tmp_path, "01_sink_detection", True)
    (tmp_path / "02_oom_free_report.json").write_bytes(content.encode("latin-1"))
    page = index.write_index(tmp_path, tmp_path).read_text()
    unreadable, listed = page.split("Unreadable files")[1].split("Notebooks and reports")
    assert "02_oom_free_report.json" in unreadable and "01_sink_detection" not in unreadable
    assert "02_oom_free</b>" in listed and "its report cannot be read" in listed
    assert "1 PASS, 0 WARN, 0 FAIL" in page and "All &amp; well." in page


def test_an_unreadable_notebook_or_caption_is_named(tmp_path):
    finished(tmp_path, "01_sink_detection", True)
    (tmp_path / "01_sink_detection.html").write_text("of an earlier run")
    (tmp_path / "data").mkdir()
    for file in ("01_sink_detection.ipynb", "data/05_drift.json"):
        (tmp_path / file).write_text("<broken")
    page = index.write_index(tmp_path, tmp_path).read_text()
    unreadable = page.split("Unreadable files")[1].split("Notebooks and reports")[0]
    assert "<b>01_sink_detection.ipynb</b>" in unreadable and "<b>05_drift.json</b>" in unreadable
    assert "no as executed" in page and "01_sink_detection.html" not in links_of(page)


def test_without_broken_files_none_is_named(tmp_path):
    finished(tmp_path, "01_sink_detection", True)
    assert "Unreadable" not in index.write_index(tmp_path, tmp_path).read_text()


def test_executed_notebooks_are_found_beside_the_report_of_another_folder(tmp_path):
    output = tmp_path / "results of #1"
    finished(output, "01_sink_detection", True)
    executed = paths.executed_path("01_sink_detection", str(output))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# found")]), executed)
    page = index.write_index(output, paths.figure_dir(str(output))).read_text()
    assert "01_sink_detection.html" in links_of(page)
    assert "found" in (output / "01_sink_detection.html").read_text()


def test_links_work_from_another_folder_with_special_characters(tmp_path):
    figures_folder = tmp_path / "50% of #2 & more"
    report = Report("05", {}, 0, "cpu", str(figures_folder))
    figures.make("05_drift", report, drift=pd.DataFrame(dict(turns=[1], method=["chain"], error=[0.1])))
    page = index.write_index(tmp_path / "results", figures_folder).read_text()
    assert len(links_of(page)) == 2
    assert all((tmp_path / "results" / link).resolve().is_file() for link in links_of(page))
    assert not re.search(r'(?:href|src)="[^"]*[ #]', page)


def test_a_figure_that_was_drawn_only_in_chinese_is_shown(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "05_drift.json").write_text('{"caption": "c"}')
    (tmp_path / "05_drift_zh.png").touch()
    assert "05_drift_zh.png" in links_of(index.write_index(tmp_path, tmp_path).read_text())
    (tmp_path / "05_drift.png").touch()
    assert "05_drift.png" in links_of(index.write_index(tmp_path, tmp_path).read_text())


def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_named(tmp_path):
    finished(tmp_path, "01_sink_detection", True)
    (tmp_path / "02_oom_free_report.json").mkdir()
    (tmp_path / "03_periodic_ask.ipynb").symlink_to("nowhere")
    os.mkfifo(tmp_path / "04_position_remap_report.json")
    page = index.write_index(tmp_path, tmp_path).read_text()
    unreadable = page.split("Unreadable files")[1].split("Notebooks and reports")[0]
    for name in ("02_oom_free_report.json", "03_periodic_ask.ipynb", "04_position_remap_report.json"):
        assert f"<b>{name}</b>: FileNotFoundError: not a file" in unreadable
    assert "All &amp; well." in page


ODD = ["a<b>&\"'", "a\nb", "a:b", "50% #1?", "\u202eabc", "歌词", "\udcff"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_names_are_shown_and_linked(tmp_path, name):
    finished(tmp_path, name, True)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / f"{name}.ipynb")
    page = index.write_index(tmp_path, tmp_path).read_text(encoding="utf-8")
    files = [f"{name}.html", f"{name}_report.txt", f"{name}_report.json"]
    assert [unquote(link, errors="surrogateescape") for link in re.findall('href="([^"]*)"', page)] == files
    assert all((tmp_path / file).is_file() for file in files)
    assert not re.search('href="[^"]*[ :#<\\n]', page) and "\u202e" not in page and "<b>&" not in page


def test_control_characters_do_not_reach_the_page(tmp_path):
    report = Report("02_oom_free", {}, 0, "cpu", str(tmp_path))
    report.check("P5", "the answer", "\x00\x1b[31m\x07\ud800", True)
    report.conclude("first\nsecond \u202e")
    report.write()
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert not set(page) & set("\x00\x1b\x07\u202e")
    assert r"\x00\x1b[31m\x07\ud800" in page and "first\nsecond \\u202e" in page


def test_a_figure_without_a_picture_is_said_to_have_none(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "05_drift.json").write_text('{"caption": "c"}')
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert "no picture" in page and "<img" not in page
