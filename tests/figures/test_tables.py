"""Every figure's table for LaTeX has the numbers of the figure, with n and intervals, and is written with its data."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import CHUNKS, SCORES

from kvlib.lab.figures import recipes, tables
from kvlib.lab.report import paths
from kvlib.lab.report.statistics import median_interval

FOLDERS = (paths.FIGURES, paths.FIGURES / "full_size")
STORED = [(folder, path.stem) for folder in FOLDERS for path in sorted((folder / "data").glob("*.json"))]
named = pytest.mark.parametrize(("folder", "name"), STORED, ids=lambda value: getattr(value, "name", value))


def cells(text: str) -> list[list[str]]:
    """The rows of a LaTeX table, without those of rules, caption and header."""
    body = text.rsplit(r"\endlastfoot" if "longtable" in text else r"\midrule", 1)[1]
    return [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r"\\")]


@named
def test_the_committed_table_is_that_of_the_committed_data(folder, name):
    committed = (folder / "data" / f"{name}.tex").read_text()
    known = json.loads((folder / "data" / f"{name}.json").read_text())
    data = {key: recipes.read_table(folder / "data" / f"{name}_{key}.csv") for key in known["tables"]} | known["numbers"]
    assert tables.latex(recipes.RECIPES[name].table(**data), known["caption"], f"tab:{name}") == committed
    assert tables.escaped(recipes.RECIPES[name].caption) in committed
    assert rf"\label{{tab:{name}}}" in committed and r"\toprule" in committed and r"\bottomrule" in committed
    assert len(cells(committed)) > 0


@named
def test_n_and_the_interval_are_in_the_table_or_in_the_caption(folder, name):
    text = (folder / "data" / f"{name}.tex").read_text()
    assert re.search(r"\bn\b", text)
    assert re.search(r"\d \[\d|\d\} \[|exact counts|no interval", text), "an interval, or why there is none"


def test_every_caption_has_one_table_and_every_table_a_figure():
    committed = {path for folder in FOLDERS for path in folder.rglob("*.tex")}
    assert committed == {folder / "data" / f"{name}.tex" for folder, name in STORED}
    for recipe in recipes.RECIPES.values():
        assert list(inspect.signature(recipe.table).parameters) == list(inspect.signature(recipe.draw).parameters)


def test_what_stores_the_data_writes_the_table_and_drawing_again_renews_caption_and_table(tmp_path, monkeypatch):
    recipes.store("04_accuracy_over_length", tmp_path, {"seed": 1}, {"scores": SCORES, "first_eviction": 12})
    table = tmp_path / "data/04_accuracy_over_length.tex"
    first = table.read_text()
    assert "title & keep & 24 & 56.2 [39.3, 71.8] & 32" in first
    old = recipes.RECIPES["04_accuracy_over_length"]
    monkeypatch.setitem(recipes.RECIPES, "04_accuracy_over_length", old._replace(caption="Another caption."))
    recipes.redraw("04_accuracy_over_length", tmp_path)
    assert table.read_text() == first.replace(tables.escaped(old.caption), "Another caption.")
    assert '"caption": "Another caption."' in Path(table.with_suffix(".json")).read_text()


def test_shares_are_sorted_by_their_columns_whatever_the_order_of_the_data():
    rows = cells(tables.latex(tables.over_length(SCORES.sort_values("chunks", ascending=False)), "c"))
    assert [row[:3] for row in rows[:4]] == [
        ["title", "keep", "8"],
        *(["title", "keep", n] for n in ("24", "96")),
        ["title", "remap", "8"],
    ]


def test_what_is_counted_of_a_stream():
    assert tables.memory(CHUNKS, 250).to_dict("list") == {
        "run": ["no eviction", "sink + window"], "n (chunks)": [3, 4], "evictions": [0, 2], "most tokens": ["300", "200"],
        "most MiB": ["1.8", "1.2"], "ends with": ["out of memory", "end of the video"],
    }  # fmt: skip
    timeline = pd.DataFrame([("a", 0, 0), ("a", 3, 0), ("a", 3, 1), ("a", 3, 3), ("b", 0, 0), ("b", 3, 3)])
    found = tables.timeline(timeline.set_axis(["contender", "moment", "alive"], axis=1))
    assert found.to_numpy().tolist() == [["a", 3, 2, 4], ["b", 1, 0, 4]]


def test_subtitles_have_their_numbers_and_the_shares_their_intervals():
    lines = pd.DataFrame(
        {"start_s": [0, 4, np.nan], "end_s": [4, 8, np.nan], "text": ["one\nline", "two", np.nan],
         "asked": [True, False, False], "found": [True, False, False],
         "read_start_s": [1, np.nan, 9], "read_end_s": [3, np.nan, 10], "read_as": ["one", np.nan, "x"]}
    )  # fmt: skip
    rows = tables.lines(lines, pd.DataFrame({"time_s": [1.0, 9.0], "exact": [True, False]})).to_numpy().tolist()
    assert rows == [
        [1, "0.0 to 4.0", "one line", "1.0 to 3.0", "yes"],
        [2, "4.0 to 8.0", "two", "", "not asked"],
        [3, "", "(in no subtitle) x", "9.0 to 10.0", ""],
        ["", "", "subtitles found, n = 2: 50.0 [9.5, 90.5] %", "", ""],
        ["", "", "right answers, n = 2: 50.0 [9.5, 90.5] %", "", ""],
    ]


def test_the_ranking_has_medians_shares_and_counts():
    attention = pd.DataFrame({"kind": ["the right card"] * 8 + ["ranked first, now"], "times": [*range(1, 9), 1.5]})
    firsts = pd.DataFrame({"first": ["the chunk asked for", "another card"], "questions": [9, 1]})
    assert tables.ranking(attention, firsts, 3.0).to_numpy().tolist() == [
        ["the right card", "4.5 [1.0, 8.0]", "75.0 [40.9, 92.9]", 8],
        ["ranked first, now", "1.5", "0.0 [0.0, 79.3]", 1],
        ["ranked first: the chunk asked for", "", "90.0 [59.6, 98.2]", 10],
        ["ranked first: another card", "", "10.0 [1.8, 40.4]", 10],
    ]


def test_texts_are_no_commands_and_columns_of_numbers_stand_right():
    table = pd.DataFrame({"a_b": [r"50% & $x$ \c {}~^#", "2 frames"], "n": [1, 2], "right": ["1.0 [0.5, 1.0]", "none"]})
    text = tables.latex(table, "100% of a_b")
    assert r"\begin{tabular}{lrr}" in text and r"a\_b & n & right" in text and r"\caption{100\% of a\_b}" in text
    assert r"50\% \& \$x\$ \textbackslash{}c \{\}\textasciitilde{}\textasciicircum{}\# & 1 & 1.0 [0.5, 1.0] \\" in text
    wide = tables.latex(pd.DataFrame({"a": ["x" * 31, "1"], "b": ["x" * 30, "1"]}), "c")
    assert r"\begin{tabular}{p{4.5cm}l}" in wide, "a long text is broken into lines"
    long = tables.latex(pd.DataFrame({"a": range(tables.LONGEST + 1)}), "c", "tab:long")
    assert long.count(r"\label{tab:long}") == 1 and r"\begin{longtable}{r}" in long


@pytest.mark.parametrize(("n", "low", "high"), [(5, None, None), (6, 1, 6), (9, 2, 8), (20, 6, 15), (100, 40, 61)])
def test_the_interval_of_a_median_is_that_of_the_tables(n, low, high):
    """The ranks are those of the usual tables of the sign test."""
    found = median_interval(np.random.default_rng(0).permutation(np.arange(1, n + 1)))
    assert found == (low, high) if low else all(np.isnan(found))
