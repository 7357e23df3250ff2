"""What every test of verdicts does: record them in a report that is not written, and look at them."""

import pytest

from kvlib.lab.report.report import Report


@pytest.fixture
def report():
    return Report("00_test", {}, 0, "cpu")


@pytest.fixture
def judged():
    """The verdicts that a function `judge` records: `judged(judge, *its inputs)` -> {id: verdict}."""

    def judge(function, *inputs) -> dict[str, str]:
        made = Report("00_test", {}, 0, "cpu")
        function(made, *inputs)
        return {row["id"]: row["verdict"] for row in made.criteria}

    return judge


@pytest.fixture
def recorded():
    """What a report holds: `recorded(report)` -> ({id: measured}, {name: value})."""
    return lambda made: (
        {row["id"]: row["measured"] for row in made.criteria},
        {row["name"]: row["value"] for row in made.measurements},
    )
