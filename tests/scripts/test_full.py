"""`make full`: what it runs, and that nothing is copied before all of it has ended."""

import fnmatch
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from kvlib.lab.cli import app
from kvlib.lab.figures import fonts
from kvlib.lab.report import paths

sys.path.insert(0, str(paths.ROOT / "data"))

import full  # noqa: E402

SCRIPT = paths.ROOT / "data" / "full.py"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two small steps in place of the real ones, which count their runs in a file: `small("exit 0", "exit 1")` with the ends of
    their commands."""

    def make(*ends: str) -> None:
        names = ("first", "second")
        steps = {
            name: full.Step(
                1, ("sh", "-c", f"echo {name} >> {tmp_path}/runs; echo new > {{out}}/{name}.csv; {end}"), {f"{name}.*": "kept"}
            )
            for name, end in zip(names, ends, strict=True)
        }
        monkeypatch.setattr(full, "STEPS", steps)

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "first.csv").write_text("old\n")
    monkeypatch.setattr(full.paths, "ROOT", tmp_path)
    monkeypatch.setattr(full, "OUT", tmp_path / "results" / "full")
    return make


def script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_every_committed_full_size_file_belongs_to_a_step():
    kept = [(pattern, target) for step in full.STEPS.values() for pattern, target in step.copies.items()]
    for path in (paths.FIGURES / "full_size").rglob("*"):
        name = path.relative_to(paths.ROOT)
        made = any(
            str(name) == target or (str(name.parent) == target and fnmatch.fnmatch(name.name, pattern.split("/")[-1]))
            for pattern, target in kept
        )
        assert made or path.is_dir(), f"no step makes {name}"
    for pattern, target in kept:
        place = paths.ROOT / target
        assert place.is_file() or any(place.glob(pattern.split("/")[-1])), f"nothing committed is called {target}/{pattern}"


def test_the_list_names_every_step_and_the_time():
    done = script("--list")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(full.STEPS) + 1
    total = sum(step.minutes for step in full.STEPS.values())
    assert lines[-1].split()[:2] == [str(total), "min"] and all(
        name in line for name, line in zip(full.STEPS, lines, strict=False)
    )


@pytest.mark.parametrize("name", [name for name, step in full.STEPS.items() if step.command[:2] == tuple(full.WORKBOOK)])
def test_the_command_of_a_notebook_is_understood(name, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr("kvlib.lab.workbook.run_workbook", lambda *given: started.append(given) or 0)
    words = [word.format(out=tmp_path) for word in full.STEPS[name].command[1:]]
    assert CliRunner().invoke(app, words).exit_code == 0
    ((notebooks, values),) = started
    everything = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
    assert values["OUTPUT_DIR"] == str(tmp_path) and len(notebooks) == (len(everything) if name == "workbook" else 1)


def test_an_unknown_step_is_refused():
    done = subprocess.run(
        [sys.executable, paths.ROOT / "data" / "full.py", "lenghts"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "lenghts: no such step; there are evaluation" in done.stderr


def test_no_step_at_a_time_is_refused():
    done = script("--jobs", "0", "--list")
    assert done.returncode == 2 and "--jobs 0: give at least 1" in done.stderr


def test_a_step_that_has_ended_on_this_commit_is_not_run_again(small, tmp_path):
    small("exit 0", "exit 0")
    assert full.redo(["first", "second"], "abc") == []
    assert full.redo(["first", "second"], "abc") == []
    assert (tmp_path / "runs").read_text().split() == ["first", "second"]
    assert full.redo(["first"], "def") == [] and (tmp_path / "runs").read_text().split().count("first") == 2
    assert json.loads((full.OUT / "first" / "done.json").read_text())["commit"] == "def"
    assert (tmp_path / "kept" / "first.csv").read_text() == (tmp_path / "kept" / "second.csv").read_text() == "new\n"


def test_steps_run_side_by_side_but_for_one_that_measures_times(small, tmp_path):
    """Each of the first two waits for the other, and the last sees that both have ended."""
    meet = "for n in $(seq 500); do [ -e {out}/../%s/%s.csv ] && break; sleep 0.02; done; [ $n -lt 500 ] && touch {out}/ended"
    small(meet % ("second", "second"), meet % ("first", "first"))
    seen = " && ".join(f"test -e {{out}}/../{name}/ended" for name in ("first", "second"))
    check = ("sh", "-c", f"echo third >> {tmp_path}/runs; {seen} && touch {{out}}/third.csv")
    full.STEPS["third"] = full.Step(1, check, {"third.csv": "kept"}, alone=True)
    assert full.redo(["third", "first", "second"], "abc", jobs=2) == []
    assert (tmp_path / "kept" / "third.csv").exists()
    assert (tmp_path / "runs").read_text().split()[-1:] == ["third"] and (tmp_path / "runs").read_text().count("third") == 1


def test_nothing_is_copied_when_a_step_fails(small, tmp_path):
    small("exit 0", "exit 3")
    assert full.redo(["first", "second"], "abc") == ["second"]
    assert (tmp_path / "kept" / "first.csv").read_text() == "old\n"
    small("exit 0", "exit 0")
    assert full.redo(["first", "second"], "abc") == []
    assert (tmp_path / "runs").read_text().split() == ["first", "second", "second"]


def test_a_file_that_was_not_made_is_named_before_anything_is_copied(small, tmp_path):
    small("exit 0", "rm {out}/second.csv")
    with pytest.raises(FileNotFoundError, match="step second has made no second"):
        full.redo(["first", "second"], "abc")
    assert (tmp_path / "kept" / "first.csv").read_text() == "old\n"


@pytest.fixture
def with_figures(small, tmp_path, monkeypatch):
    """The step `first` makes a figure. In the place of kvlib stands a command that writes down its language and arguments."""
    small("exit 0", "exit 0")
    (tmp_path / "figures").mkdir()
    command = ("sh", "-c", f"echo first >> {tmp_path}/runs; echo $FIGURE_LANG > {{out}}/first.csv")
    full.STEPS["first"] = full.Step(1, command, {"first.csv": "figures"})
    kvlib = tmp_path / "kvlib"
    kvlib.write_text(f"#!/bin/sh\necho $FIGURE_LANG $@ $(cat figures/first.csv) > {tmp_path}/drawn\n")
    kvlib.chmod(0o755)
    monkeypatch.setattr(full, "KVLIB", str(kvlib))
    monkeypatch.setenv("FIGURE_LANG", "zh")
    return kvlib


def test_chinese_figures_are_drawn_again_from_the_copied_data(with_figures, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "font_families", lambda: ["DejaVu Sans", "a Chinese font"])
    assert full.redo(["second"], "abc") == [] and not (tmp_path / "drawn").exists()
    assert full.redo(["first"], "abc") == []
    assert (tmp_path / "drawn").read_text().split() == ["zh", "figures", "en"], "the steps themselves draw in English"
    with_figures.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SystemExit, match="Chinese figures are the old ones: run `FIGURE_LANG=zh make figures`"):
        full.redo(["first"], "abc")


def test_without_a_chinese_font_no_step_is_run(with_figures, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ("No Such Font",))
    with pytest.raises(SystemExit, match="Chinese figures could not be drawn again.*install one, such as"):
        full.redo(["first", "second"], "abc")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "figures" / "first.csv").exists()


def test_uncommitted_changes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(full.paths, "ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("a")
    with pytest.raises(SystemExit, match="not committed.*"):
        full.commit()
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    assert len(full.commit()) == 40
