"""One table of criteria: its columns, its texts and the number of each verdict."""

import math

import numpy as np
import pytest
import torch

from kvlib.lab.report.criteria import count_verdicts, criteria_table, value_text

CRITERIA = [
    {"id": "P1", "description": "all chunks", "measured": 100, "verdict": "PASS"},
    {"id": "P2", "description": "seconds", "measured": 4.123456, "verdict": "FAIL"},
    {"id": "P3", "description": "peak", "measured": None, "verdict": "WARN"},
    {"id": "P4", "description": "answer", "measured": "<b>x</b>", "verdict": "PASS"},
]


def test_the_table_has_a_row_of_texts_for_every_criterion():
    assert criteria_table(CRITERIA).to_dict("split", index=False) == {
        "columns": ["id", "verdict", "description", "measured"],
        "data": [
            ["P1", "PASS", "all chunks", "100"],
            ["P2", "FAIL", "seconds", "4.123"],
            ["P3", "WARN", "peak", "not measured"],
            ["P4", "PASS", "answer", "<b>x</b>"],
        ],
    }


def test_criteria_of_several_notebooks_have_their_names_first():
    table = criteria_table([{"notebook": "01", **CRITERIA[0]}, {"notebook": "02", **CRITERIA[1]}])
    assert list(table.columns) == ["notebook", "id", "verdict", "description", "measured"]
    assert list(table["notebook"]) == ["01", "02"]


def test_no_criteria_give_an_empty_table():
    assert list(criteria_table([]).columns) == ["id", "verdict", "description", "measured"]
    assert len(criteria_table([])) == 0


def test_verdicts_are_counted():
    assert count_verdicts(CRITERIA) == "2 PASS, 1 WARN, 1 FAIL"
    assert count_verdicts([]) == "0 PASS, 0 WARN, 0 FAIL"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.93751, "0.9375"),
        (21.5, "21.5"),
        (123456, "123456"),
        (True, "True"),
        (np.float32(0.5), "0.5"),
        (torch.tensor(7), "7"),
        (math.nan, "not measured"),
        (None, "not measured"),
        ("text", "text"),
    ],
)
def test_values_are_shown_to_four_digits(value, text):
    assert value_text(value) == text
