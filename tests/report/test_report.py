"""Reports say what was measured with what, in text and in valid JSON, and show texts as they are."""

import importlib.metadata
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from kvlib.lab.report import paths
from kvlib.lab.report.report import Report, full_text
from kvlib.lab.report.text import printable


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv("REPORT_PATH", raising=False)


@pytest.fixture
def filled(tmp_path):
    made = Report("02_oom_free", {"MAX_CACHE_TOKENS": 1300, "MODEL_PATH": str(paths.READER)}, 7, "cpu", str(tmp_path))
    made.check("P1", "all chunks processed", 100, True)
    made.check("P4", "peak below the limit", np.float64("nan"), None)
    made.check("P5", "cache length unchanged", {"before": 10, "after": 12}, False)
    made.measure("exact answers", 0.9375, n=32, interval=(0.7985, 0.9827))
    made.measure("error rate", 0.25, n=4, interval=(math.nan, math.nan))
    made.measure("peak", torch.tensor(21.5), unit="GiB")
    made.conclude("The budget holds.")
    return made


def test_text_and_json_hold_the_same_content(filled):
    path = filled.write()
    text, content = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert path.name == "02_oom_free_report.txt"
    assert [(c["id"], c["verdict"]) for c in content["criteria"]] == [("P1", "PASS"), ("P4", "WARN"), ("P5", "FAIL")]
    for expected in (
        "PASS  [P1] all chunks processed: 100",
        "WARN  [P4] peak below the limit: not measured",
        "FAIL  [P5] cache length unchanged",
        "exact answers: 0.9375 (95% interval 0.7985 to 0.9827), n = 32",
        "error rate: 0.25, n = 4",
        "peak: 21.5 GiB",
        "MAX_CACHE_TOKENS = 1300",
        "MODEL_PATH = 'data/reader'",
        "The budget holds.",
        content["written_utc"],
        content["device"],
        f"torch {importlib.metadata.version('torch')}",
    ):
        assert expected in text
    assert content["seed"] == 7
    assert content["parameters"] == {"MAX_CACHE_TOKENS": 1300, "MODEL_PATH": "data/reader"}
    assert content["versions"].keys() == {"python", "torch", "transformers", "kvlib"}
    assert content["git"].keys() == {"commit", "dirty"}
    assert content["measurements"][0]["interval"] == [0.7985, 0.9827]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_non_finite_numbers_are_null(tmp_path, value):
    made = Report("x", {"nested": [value, {"deep": value}]}, 0, "cpu", str(tmp_path))
    made.check("A", "a", value, True)
    content = json.loads(made.write().with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert content["criteria"][0]["measured"] is None
    assert content["parameters"]["nested"] == [None, {"deep": None}]


def test_numpy_and_torch_verdicts(tmp_path):
    made = Report("x", {}, 0, "cpu", str(tmp_path))
    assert made.check("A", "a", 1, np.bool_(True)) == "PASS"
    assert made.check("B", "b", 1, torch.tensor(False)) == "FAIL"
    assert list(made.table().data["verdict"]) == ["PASS", "FAIL"]


def test_a_criterion_cannot_be_recorded_twice(filled):
    with pytest.raises(ValueError, match="P1.*own id"):
        filled.check("P1", "again", 0, True)
    assert len(filled.criteria) == 3


def test_report_path_overrides_the_place(filled, tmp_path, monkeypatch):
    monkeypatch.setenv("REPORT_PATH", str(tmp_path / "mine" / "final.txt"))
    assert filled.write() == tmp_path / "mine" / "final.txt"
    assert (tmp_path / "mine" / "final.json").is_file()


def test_provenance_has_no_time_and_no_commit(filled):
    """Figures carry it, and must not change when only the clock or the commit did."""
    assert filled.provenance().keys() == {"experiment", "parameters", "seed", "device", "versions"}


def test_tables_show_texts_whole(tmp_path):
    made = Report("x", {}, 0, "cpu", str(tmp_path))
    made.check("A", "word " * 40 + "end", 1, True)
    assert "word " * 40 + "end" in made.table().to_html()


def test_tables_show_html_as_text(tmp_path):
    made = Report("x", {}, 0, "cpu", str(tmp_path))
    made.check("<i>A</i>", "read <u>from</u> the screen", "<b>x</b>", True)
    shown = made.table().to_html()
    for escaped in ("&lt;i&gt;A&lt;/i&gt;", "read &lt;u&gt;from&lt;/u&gt; the screen", "&lt;b&gt;x&lt;/b&gt;"):
        assert escaped in shown
    columns = full_text(pd.DataFrame({"<b>name</b>": ["<b>x</b>", "y"], "n": [1 / 3, 2.0]})).to_html()
    assert "<b>" not in columns and "&lt;b&gt;name" in columns and "0.333" in columns


def test_the_table_and_the_text_show_the_same_values(filled):
    table = filled.table().data
    assert list(table.columns) == ["id", "verdict", "description", "measured"]
    assert list(table["measured"]) == ["100", "not measured", "{'before': 10, 'after': 12}"]
    text = filled.write().read_text()
    assert all(f"{row.verdict}  [{row.id}] {row.description}: {row.measured}" in text for row in table.itertuples())


LAYOUT = [
    "two\nlines\r\nPASS  [P9] forged",
    "\x00\x07\x1b[2J\x7f\x85",
    "\u2028\u2029",
    "\u202eright to left",
    "\udcff\ud800",
]


@pytest.mark.parametrize("text", LAYOUT, ids=ascii)
def test_a_text_of_the_data_takes_one_line_of_the_report(tmp_path, text):
    made = Report("x", {"QUESTION": text, text: 1}, 0, "cpu", str(tmp_path))
    plain = Report("x", {"QUESTION": "q", "r": 1}, 0, "cpu", str(tmp_path / "plain"))
    for report, shown in ((made, text), (plain, "q")):
        report.check(f"A{shown}", shown, {"read": shown}, True)
        report.check("B", "as text", shown, True)
        report.measure(shown, shown, unit=shown)
        report.conclude("It ended.\n" + shown.replace("\n", " "))
    written = made.write()
    lines, expected = (path.read_text().split("\n") for path in (written, plain.write()))
    assert len(lines) == len(expected)
    assert [line[:2] for line in lines] == [line[:2] for line in expected]
    assert all(c.isprintable() for line in lines for c in line)
    assert json.loads(written.with_suffix(".json").read_text())["criteria"][1]["measured"] == text


def test_the_conclusion_is_shown_as_it_is_written(tmp_path):
    conclusion = Report("x", {}, 0, "cpu", str(tmp_path)).conclude("<b>*x*</b> $a_b$ \x1b[2J\n# no heading")
    shown = conclusion._repr_html_()
    assert "&lt;b&gt;*x*&lt;/b&gt; $a_b$ \\x1b[2J\n# no heading</p>" in shown
    assert "mathjax_ignore" in shown and "<b>" not in shown
    assert repr(conclusion) == "<b>*x*</b> $a_b$ \\x1b[2J\n# no heading", "for exports without HTML"


def test_tables_show_dollar_signs_and_control_characters(tmp_path):
    made = Report("x", {}, 0, "cpu", str(tmp_path))
    made.check("A", "$a_b$ and $c$", "\x00", True)
    plain = pd.DataFrame({"text": ["$a_b$"]})._repr_html_()
    for shown in (made.table().to_html(), full_text(pd.DataFrame({"$x$": ["\x1b"]})).to_html(), plain):
        assert "mathjax_ignore" in shown, "or MathJax would draw formulas"
        assert "\x00" not in shown and "\x1b" not in shown


def test_spaces_and_joiners_of_other_scripts_stay():
    text = "\u6b4c\u3000\u8bcd\xa0\u200f\u05e9 \U0001f468\u200d\U0001f469 \u202f5"
    assert printable(text) == text
