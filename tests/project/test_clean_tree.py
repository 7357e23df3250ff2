"""Runs, JupyterLab and `make clean`, in a fresh clone: committed files stay as they are, and so does what took long."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

from kvlib.lab.report.paths import ROOT

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", ".fonts")
# In the place of the environment's command: the same command, of the clone.
KVLIB = f"""#!{sys.executable}
import sys
sys.path.insert(0, ".")
from kvlib.lab.cli import app
app()
"""
# In the place of JupyterLab: saves every notebook of lab/ as Lab does, with outputs and the kernel's metadata.
SAVES_LIKE_LAB = f"""#!{sys.executable}
import json, sys
from pathlib import Path
assert sys.argv[1] == "lab"
Path("arguments").write_text(" ".join(sys.argv[2:]))
for path in (Path(sys.argv[2]) / "lab").glob("*.ipynb"):
    content = json.loads(path.read_text())
    content["metadata"]["language_info"]["version"] = "3.11.9"
    content["cells"][1].update(execution_count=7, outputs=[dict(output_type="stream", name="stdout", text=["mine"])])
    path.write_text(json.dumps(content))
    (path.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
    (path.parent / ".ipynb_checkpoints" / path.name).touch()
"""


def git(folder, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path):
    """A copy of the working tree, everything in it committed, with a `.venv` that make takes for complete."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    (folder / ".venv/bin").mkdir(parents=True)
    script(folder / ".venv/bin/kvlib", KVLIB)
    (folder / ".venv/.ready").touch()
    return folder


def script(path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o755)


def make(folder, *arguments: str, stdin=subprocess.DEVNULL) -> str:
    done = subprocess.run(["make", *arguments], cwd=folder, stdin=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_changes_no_committed_file(clone):
    code = "from kvlib.lab.cli import app; app()"
    arguments = ["workbook", "01_sink_detection", "-p", "CHUNKS", "2", "-p", "HEIGHTS", "[224]"]
    environment = {name: value for name, value in os.environ.items() if name not in ("REPORT_PATH", "FIGURE_LANG")}
    environment |= {"PYTHONPATH": str(clone)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=clone, env=environment, capture_output=True, text=True)
    assert "finished" in done.stdout, done.stdout + done.stderr
    written = {path.relative_to(clone / "results").as_posix() for path in (clone / "results").rglob("*") if path.is_file()}
    assert {"01_sink_detection.ipynb", "01_sink_detection_report.txt", "index.html"} <= written
    assert {"figures/01_sinks.png", "figures/01_sinks.pdf", "figures/data/01_sinks.json"} <= written
    assert git(clone, "status", "--porcelain") == ""
    stored = {path.name for path in (clone / "results/figures").rglob("*") if path.is_file()}
    assert stored <= {path.name for path in (clone / "figures").rglob("*")}, "`cp -r results/figures/. figures/` renews them"


def test_lab_opens_copies_that_keep_what_was_done_in_them(clone):
    jupyter = clone / ".venv/bin/jupyter"
    script(jupyter, SAVES_LIKE_LAB)
    make(clone, "lab")
    (clone / "arguments").unlink()
    assert git(clone, "status", "--porcelain") == ""
    mine = clone / "results/lab/02_oom_free.ipynb"
    assert json.loads(mine.read_text())["cells"][1]["outputs"][0]["text"] == ["mine"]
    jupyter.write_text("#!/bin/sh\n")
    saved = mine.read_text()
    assert "has changed" not in make(clone, "lab")
    with open(clone / "notebooks/02_oom_free.ipynb", "a") as newer:
        newer.write("\n")
    shown = make(clone, "lab")
    assert "notebooks/02_oom_free.ipynb has changed since results/lab/02_oom_free.ipynb was copied" in shown
    assert mine.read_text() == saved and "03_periodic_ask" not in shown
    untouched = clone / "results/lab/01_sink_detection.ipynb"
    shutil.copy(clone / "results/lab/.original/01_sink_detection.ipynb", untouched)
    with open(clone / "notebooks/01_sink_detection.ipynb", "a") as newer:
        newer.write("\n")
    make(clone, "lab")
    assert untouched.read_text() == (clone / "notebooks/01_sink_detection.ipynb").read_text(), "a copy without work in it"


def test_lab_opens_with_the_page_of_the_results(clone):
    script(clone / ".venv/bin/jupyter", SAVES_LIKE_LAB)
    report = dict(criteria=[dict(id="A1", verdict="PASS", description="of a run in Lab", measured=1)], conclusion="")
    (clone / "results").mkdir()
    (clone / "results/01_sink_detection_report.json").write_text(json.dumps(report))
    make(clone, "lab", "LAB=--port=1234")
    folder, opened, *rest = (clone / "arguments").read_text().split()
    assert opened == "--LabApp.default_url=/lab/tree/index.html"
    assert "of a run in Lab" in (clone / folder / "index.html").read_text()
    assert rest == ["--allow-root"] * (os.getuid() == 0) + ["--port=1234"]


def test_lab_opens_when_the_page_cannot_be_written(clone):
    script(clone / ".venv/bin/jupyter", SAVES_LIKE_LAB)
    (clone / "results/index.html").mkdir(parents=True)
    assert "the page of results could not be written" in make(clone, "lab")
    assert (clone / "arguments").is_file()


@pytest.fixture
def with_results(clone):
    """The clone with a full-size run, a small run of the tests, a copy of a notebook and a cache."""
    for name in ("full size/04_report.txt", "nbmake/01_report.txt", "lab/mine.ipynb"):
        (clone / "results" / name).parent.mkdir(parents=True)
        (clone / "results" / name).touch()
    (clone / "kvlib/__pycache__").mkdir()
    return clone


def test_clean_keeps_results_when_nobody_can_be_asked(with_results):
    shown = make(with_results, "clean")
    left = {path.name for path in (with_results / "results").iterdir()}
    assert left == {"full size", "lab"}
    assert "results/full size" in shown and "These results stay" in shown and "results/lab/ stays" in shown
    assert not (with_results / "kvlib/__pycache__").exists()
    assert git(with_results, "status", "--porcelain") == ""


@pytest.mark.parametrize(("answer", "left"), [("", {"full size", "lab"}), ("n", {"full size", "lab"}), ("y", {"lab"})])
def test_clean_asks_on_a_terminal(with_results, answer, left):
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    shown = make(with_results, "clean", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert "Delete these results? [y/N]" in shown and "results/full size" in shown
    assert {path.name for path in (with_results / "results").iterdir()} == left
