"""The page of a run: what is on it, and that its links lead somewhere."""

import os
import re
from base64 import b64decode
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
    return [unquote(link) for link in re.findall('href="([^"]*)"', page)]


def pictures_of(page: str) -> list[bytes]:
    """The pictures that are in the page itself; every picture is."""
    assert page.count("<img ") == page.count('src="') == page.count('src="data:image/png;base64,')
    return [b64decode(data) for data in re.findall('src="data:image/png;base64,([^"]*)"', page)]


def test_conclusions_come_first_and_every_link_leads_to_a_file(tmp_path):
    report = finished(tmp_path, "01_sink_detection", True)
    finished(tmp_path, "02_oom_free", False)
    cell = nbformat.v4.new_markdown_cell("# A heading to find")
    for name in ("01_sink_detection", "03_periodic_ask"):
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    drift = pd.DataFrame(dict(turns=[1, 10], method=["chain", "chain"], error=[0.1, 0.2]))
    figures.make("05_drift", report, drift=drift)
    page = index.write_index(tmp_path, tmp_path).read_text()
    heads = ["1 PASS, 0 WARN, 1 FAIL", "<h2>Conclusions", "<h2>Criteria", "<h2>Figures", "<h2>What each run"]
    assert sorted(heads, key=page.index) == heads
    assert "less than &lt;five&gt;" in page and "4.123" in page and "All &amp; well." in page
    assert '<td class="verdict FAIL">FAIL</td>' in page
    assert [run.split("<")[0].split(":")[0] for run in page.split("<h3>")[1:]] == [
        "01_sink_detection", "02_oom_free", "03_periodic_ask",
    ]  # fmt: skip
    assert "<h3>03_periodic_ask: A heading to find</h3>" in page and "It left no report: it did not finish." in page
    assert "3, of which 1 did not finish with a report" in page
    links = links_of(page)
    assert len(links) == 2 * 2 + 2 + 2, "two reports each, two notebooks, a picture and its data"
    assert all((tmp_path / link).is_file() for link in links)
    assert pictures_of(page) == [(tmp_path / "05_drift.png").read_bytes()]
    assert "A heading to find" in (tmp_path / "01_sink_detection.html").read_text()


def test_a_run_that_left_nothing_has_a_page_that_says_so(tmp_path):
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert "No criterion was judged" in page and "Nothing has been run yet" in page and "No figure was drawn" in page
    assert "<h2>Conclusions" not in page


def executed(folder, name: str, *outputs) -> None:
    """An executed notebook with a heading, and a cell with `outputs`."""
    cells = [
        nbformat.v4.new_markdown_cell("# 03 · Asking\n**Question.**"),
        nbformat.v4.new_code_cell("1", outputs=list(outputs)),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


def heads_of(page: str) -> dict[str, str]:
    """What stands above the conclusions: names and texts."""
    return dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page.split("<h2>")[0]))


def test_a_run_that_failed_says_why(tmp_path):
    finished(tmp_path, "01_sink_detection", True)
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no video <at> x", traceback=[])
    executed(tmp_path, "03_periodic_ask", error)
    page = index.write_index(tmp_path, tmp_path).read_text()
    failed = page.split("<h3>03_periodic_ask: Asking</h3>")[1].split("</div>")[0]
    assert "It stopped with an error: ValueError: no video &lt;at&gt; x" in failed
    assert page.count('class="run FAIL"') == 1 and page.count('class="run PASS"') == 1


@pytest.mark.parametrize(("verdicts", "worst"), [([True], "PASS"), ([True, None], "WARN"), ([None, False, True], "FAIL")])
def test_a_run_is_marked_by_its_worst_verdict(tmp_path, verdicts, worst):
    report = Report("01_sink_detection", {}, 0, "cpu", str(tmp_path))
    for number, verdict in enumerate(verdicts):
        report.check(f"A{number}", "so", 1, verdict)
    report.write()
    assert f'class="run {worst}"' in index.write_index(tmp_path, tmp_path).read_text()


def test_date_commit_device_and_model_stand_at_the_top(tmp_path, monkeypatch):
    monkeypatch.setattr("kvlib.lab.report.report.git_state", lambda: {"commit": "abc123", "dirty": True})
    for name, model in (("01_sink_detection", "data/reader"), ("02_oom_free", "/models/3B")):
        Report(name, {"MODEL_PATH": model, "CHUNKS": 5}, 7, "cpu", str(tmp_path)).write()
    for name, time in (("01_sink_detection", "2026-11-02T10:00:00+00:00"), ("02_oom_free", "2026-11-01T09:00:00+00:00")):
        path = tmp_path / f"{name}_report.json"
        path.write_text(re.sub('"written_utc": "[^"]*"', f'"written_utc": "{time}"', path.read_text()))
    page = index.write_index(tmp_path, tmp_path).read_text()
    heads = heads_of(page)
    assert heads["written"] == "2026-11-01 09:00:00 UTC to 2026-11-02 10:00:00 UTC"
    assert heads["commit"] == "abc123 with uncommitted changes" and heads["device"].startswith("cpu (")
    assert heads["model"] == "data/reader (the embedded reader); /models/3B"
    assert "CHUNKS = 5" in page.split("<h2>What each run")[1]


def test_a_report_without_provenance_is_shown(tmp_path):
    (tmp_path / "01_report.json").write_text('{"criteria": [], "conclusion": "So it is.", "git": null}')
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert "So it is." in page and heads_of(page) == {"notebooks": "1", "criteria": "0 PASS, 0 WARN, 0 FAIL"}


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
    listed, unreadable = page.split("<h2>Criteria")[0].split("Unreadable files")
    assert "02_oom_free_report.json" in unreadable and "01_sink_detection" not in unreadable
    assert "02_oom_free</h3>" in listed and "Its report cannot be read" in listed
    assert "1 PASS, 0 WARN, 0 FAIL" in page and "All &amp; well." in page


def test_an_unreadable_notebook_or_caption_is_named(tmp_path):
    finished(tmp_path, "01_sink_detection", True)
    (tmp_path / "01_sink_detection.html").write_text("of an earlier run")
    (tmp_path / "data").mkdir()
    for file in ("01_sink_detection.ipynb", "data/05_drift.json"):
        (tmp_path / file).write_text("<broken")
    page = index.write_index(tmp_path, tmp_path).read_text()
    unreadable = page.split("Unreadable files")[1].split("<h2>Criteria")[0]
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
    assert not re.search('href="[^"]*[ #]', page)


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
    unreadable = page.split("Unreadable files")[1].split("<h2>Criteria")[0]
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


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "05_drift.json").write_text('{"caption": "c"}')
    (tmp_path / "05_drift.png").mkdir()
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert "<b>05_drift.png</b>: FileNotFoundError: not a file" in page and "no picture" in page


def test_a_figure_without_a_picture_is_said_to_have_none(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "05_drift.json").write_text('{"caption": "c"}')
    page = index.write_index(tmp_path, tmp_path).read_text()
    assert "no picture" in page and "<img" not in page
