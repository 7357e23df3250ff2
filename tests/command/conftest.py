"""The console command, as a shell would call it."""

import re

import pytest
from typer.testing import CliRunner

from kvlib.lab.cli import app
from kvlib.lab.report import paths


@pytest.fixture(autouse=True)
def untuned(monkeypatch, tmp_path):
    """The budget that an earlier `make workbook` has stored in results/ does not reach these tests."""
    stored = paths.budgets_path
    monkeypatch.setattr(paths, "budgets_path", lambda output_dir="": stored(output_dir or str(tmp_path)))


@pytest.fixture
def kvlib():
    """Calls it: `kvlib("workbook", "-p", ...)` -> exit status, and all output on one line without frames around messages."""

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, list(arguments))  # no path is broken over two lines
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())

    return call
