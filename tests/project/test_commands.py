"""Every command that is shown works as it is typed in a fresh shell in the repository: nothing of `.venv` is on its path."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from kvlib.lab.cli import app, program_name
from kvlib.lab.report.paths import ROOT

DOCS = (ROOT / "docs").glob("*.md")
OF_THE_ENVIRONMENT = r"(kvlib|python3?|pip|hf|papermill|jupyter|pytest|ruff|lint-imports|nbstripout|dask)"
# A command stands at the beginning of a line of code, or in backquotes with an argument; `kvlib ask` alone only names it.
COMMAND = re.compile(
    rf"^(?: *[A-Z_]+=\S+)* *{OF_THE_ENVIRONMENT} [^`\n]*[/=][^`\n]*$|`{OF_THE_ENVIRONMENT} [^`\n]*/[^`\n]*`", re.M
)
GUIDES = ["README.md", "README.zh.md", "data/README.md", "benchmarks/README.md", *sorted(f"docs/{p.name}" for p in DOCS)]
SCRIPTS = sorted([*(ROOT / "data").glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").glob("*.py")])


@pytest.mark.parametrize("path", [*(ROOT / guide for guide in GUIDES), *SCRIPTS], ids=lambda path: path.name)
def test_commands_of_the_guides_name_the_environment(path):
    assert [found.group() for found in COMMAND.finditer(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("command", [command.callback.__name__ for command in app.registered_commands])
def test_commands_of_the_help_name_the_environment(command):
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200).output
    assert [found.group() for found in COMMAND.finditer(shown)] == []


def test_the_rule_finds_bare_commands():
    bare = "kvlib ask data/a.mp4 x\nA=1 python data/b.py\n    papermill a/b.ipynb\nsee `python data/c.py`"
    right = ".venv/bin/kvlib ask data/a.mp4 x\n`kvlib ask VIDEO`\npython is a language\nmake test\nimport kvlib"
    assert len(COMMAND.findall(bare)) == 4 and COMMAND.findall(right) == []


def test_hints_name_the_command_as_it_was_typed(tmp_path, monkeypatch):
    script = tmp_path / "bin" / "kvlib"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom kvlib.lab.cli import app\napp()\n")
    script.chmod(0o755)
    for typed, path in (
        ("bin/kvlib", "/usr/bin:/bin"),
        (str(script), "/usr/bin:/bin"),
        ("kvlib", f"{script.parent}:/usr/bin:/bin"),
    ):
        run = ["/bin/sh", "-c", f"{typed} figures --absent"]
        environment = {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}  # no path is broken over two lines
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
        shown = " ".join(done.stderr.split())
        assert f"Usage: {typed} figures" in shown and f"Try '{typed} figures --help'" in shown
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert program_name() == "kvlib"
