"""The runner, on real tiny notebooks through papermill, and the rules that the project's own notebooks keep."""

import ast
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from kvlib.lab import workbook
from kvlib.lab.report import index, paths
from kvlib.prompts import DEFAULT_QUESTION

GOOD = """
import json
from kvlib.lab.report import paths
from kvlib.lab.report.files import write_atomic
criterion = dict(id="P1", description="chunk size", measured=CHUNK_FRAMES, verdict="PASS")
content = dict(experiment=NAME, criteria=[criterion], measurements=[], conclusion="")
write_atomic(paths.report_path(NAME), "")
write_atomic(paths.report_path(NAME).with_suffix(".json"), json.dumps(content))
"""  # a report without the seconds that loading torch takes in every kernel
REPORT = """
from kvlib.lab.report.report import Report
report = Report(NAME, {"CHUNK_FRAMES": CHUNK_FRAMES}, 0, "cpu")
report.check("P1", "chunk size", CHUNK_FRAMES, CHUNK_FRAMES < 10)
report.write()
"""


def notebook(parameters: str, *cells: str):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    made = nbformat.v4.new_notebook(metadata=metadata)
    made.cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    made.cells[0].metadata["tags"] = ["parameters"]
    return made


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A folder of three notebooks: `good` reports, `raises` and `silent` do not; reports go to `tmp_path/reports`."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    made = {
        "good": notebook('NAME = "good"\nCHUNK_FRAMES = 4', GOOD),
        "raises": notebook("BUDGET = 1", "def deep():\n    raise ValueError(f'budget {BUDGET} is too small')", "deep()"),
        "silent": notebook("BUDGET = 1", "BUDGET"),
    }
    for name, content in made.items():
        nbformat.write(content, folder / f"{name}.ipynb")
    monkeypatch.setattr(workbook, "NOTEBOOK_DIR", folder)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("REPORT_PATH", str(tmp_path / "reports"))
    return folder


def test_a_failing_notebook_is_shown_and_does_not_stop_the_others(notebooks, kvlib, tmp_path):
    status, shown = kvlib("workbook", "raises", "good", "-p", "BUDGET", "20")
    assert status == 1
    assert "ValueError: budget 20 is too small" in shown
    assert "raises did not finish with a report" in shown
    assert shown.index("raises ") < shown.index(" good ")
    assert "P1 PASS chunk size: 4" in shown
    assert "1 PASS, 0 WARN, 0 FAIL" in shown
    assert (tmp_path / "reports" / "raises.ipynb").is_file(), "beside the report"


def test_parameters_reach_the_notebook_and_a_failed_criterion_the_exit_status(notebooks, kvlib, tmp_path):
    nbformat.write(notebook('NAME = ""\nCHUNK_FRAMES = 4', REPORT), notebooks / "judges.ipynb")
    status, shown = kvlib("workbook", "judges", "-p", "NAME", "judges", "-p", "CHUNK_FRAMES", "12")
    assert status == 1
    assert "P1 FAIL chunk size: 12" in shown
    content = json.loads((tmp_path / "reports" / "judges_report.json").read_text())
    assert content["parameters"] == {"CHUNK_FRAMES": 12}


def test_an_old_report_does_not_stand_for_a_run_without_one(notebooks, kvlib, tmp_path):
    (tmp_path / "reports").mkdir()
    old = {"criteria": [{"id": "P1", "description": "old", "measured": 1, "verdict": "PASS"}]}
    (tmp_path / "reports" / "silent_report.json").write_text(json.dumps(old))
    status, shown = kvlib("workbook", "silent")
    assert status == 1
    assert "silent did not finish with a report" in shown and "P1" not in shown


def test_a_dead_kernel_does_not_stop_the_run(notebooks, kvlib):
    nbformat.write(notebook("X = 1", "import os; os._exit(1)"), notebooks / "dies.ipynb")
    status, shown = kvlib("workbook", "dies", "silent")
    assert status == 1
    assert "failed" in shown and "silent" in shown.split("failed", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "no notebook absent.ipynb.*choose from good"),
        (["good", "-p", "CHUNK_FRAME", "4"], "no notebook has a parameter CHUNK_FRAME: choose from CHUNK_FRAMES"),
        (["good", "-p", "CHUNK_FRAMES"], "-p needs a name and a value"),
        (["good", "-p", "CHUNK_FRAMES=4", "4"], "-p needs a name and a value"),
    ],
)
def test_wrong_arguments_are_named(notebooks, kvlib, arguments, message):
    status, shown = kvlib("workbook", *arguments)
    assert status == 2
    assert re.search(message, shown)


def test_one_report_file_cannot_serve_several_notebooks(notebooks, kvlib, monkeypatch):
    monkeypatch.setenv("REPORT_PATH", "all.txt")
    status, shown = kvlib("workbook", "good", "silent")
    assert status == 2
    assert "give it a folder" in shown


def test_the_page_links_the_notebook_and_the_report_wherever_they_lie(notebooks, kvlib, tmp_path, monkeypatch):
    for place, report in ((tmp_path / "reports", "good_report"), (tmp_path / "one/mine.txt", "mine")):
        monkeypatch.setenv("REPORT_PATH", str(place))
        status, shown = kvlib("workbook", "good")
        assert status == 0
        folder = place if place.suffix == "" else place.parent
        page = (folder / "index.html").read_text()
        links = re.findall('href="([^"]*)"', page)
        assert links == ["good.html", f"{report}.txt", f"{report}.json"]
        assert all((folder / link).is_file() for link in links)
        assert "1 PASS, 0 WARN, 0 FAIL" in page and f"all of it on one page: {folder}/index.html" in shown


def test_an_executed_notebook_appears_when_it_has_ended(notebooks, kvlib, tmp_path):
    look = "from pathlib import Path\nprint(sorted(path.name for path in Path(FOLDER).glob('*.ipynb')))"
    nbformat.write(notebook("FOLDER = ''", look), notebooks / "looks.ipynb")
    for _ in range(2):
        kvlib("workbook", "looks", "-p", "FOLDER", str(tmp_path / "reports"))
    executed = nbformat.read(tmp_path / "reports" / "looks.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "['.looks.ipynb']\n", "and no other one while it runs"
    assert not (tmp_path / "reports" / ".looks.ipynb").exists()


def test_a_folder_that_cannot_take_the_results_is_named_before_anything_runs(notebooks, kvlib, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder, message in ((tmp_path / "file", "no results can be written to"), (notebooks, "holds the notebooks")):
        monkeypatch.setenv("REPORT_PATH", str(folder))
        status, shown = kvlib("workbook", "good")
        assert status == 2
        assert message in shown and "s finished" not in shown
    assert (notebooks / "good.ipynb").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_at_the_end_is_told(notebooks, kvlib, tmp_path, monkeypatch):
    """The report's HTML is written to a device that is always full."""

    def full(path, content):
        with open("/dev/full", "w") as file:
            file.write(content)

    monkeypatch.setattr(index, "write_atomic", full)
    status, shown = kvlib("workbook", "good")
    assert status == 1
    assert "the page of the run could not be written" in shown and "No space left on device" in shown
    assert "P1 PASS" in shown


def test_a_text_of_the_data_cannot_command_the_terminal(capsys):
    row = {"notebook": "03", "id": "C1", "verdict": "PASS", "description": "read", "measured": "\x1b[2Jgone\nP9 FAIL\x07"}
    workbook.print_criteria([row])
    assert r"C1   PASS  read: \x1b[2Jgone\nP9 FAIL\x07" in capsys.readouterr().out


def test_a_text_stays_a_text_and_the_last_value_counts(notebooks):
    given = [("NAME", "20261125"), ("CHUNK_FRAMES", "2"), ("CHUNK_FRAMES", "a=b"), ("BUDGET", "[1, 2]")]
    assert workbook.choose(["good", "raises.ipynb"], given) == (
        ["good", "raises"],
        {"NAME": "20261125", "CHUNK_FRAMES": "a=b", "BUDGET": [1, 2]},
    )
    assert workbook.choose([], []) == (["good", "raises", "silent"], {})


def test_values_are_literals_or_text():
    assert [workbook.literal(v) for v in ("4", "0.5", "True", "[1, 2]", "data/x", "2-4")] == [
        4, 0.5, True, [1, 2], "data/x", "2-4",
    ]  # fmt: skip


OWN = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_notebooks_are_clean_and_parameterised(path):
    content = nbformat.read(path, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count], "strip the outputs: nbstripout"
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "one cell tagged 'parameters'"
    mock = tagged[0].metadata.get("nbmake", {}).get("mock", {})
    assert mock.keys() <= papermill.inspect_notebook(path).keys(), "nbmake's mock sets a parameter that is not there"
    assert mock.get("OUTPUT_DIR"), "small runs must not draw over the committed figures: mock OUTPUT_DIR"
    assert content.metadata.kernelspec.name == "python3"
    assert content.metadata.language_info.name == "python", "papermill needs it"
    assert not [cell for cell in code if any(row.startswith("def ") for row in cell.source.splitlines())]


def test_the_default_question_is_the_librarys():
    question = papermill.inspect_notebook(paths.ROOT / "notebooks/03_periodic_ask.ipynb")["QUESTION"]["default"]
    assert ast.literal_eval(question) == DEFAULT_QUESTION
