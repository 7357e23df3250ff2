"""Every text of every figure is Chinese when the figures are, apart from names; English figures say what the code says."""

import ast
import inspect
import json
import re
import sys

import pytest
from drawn import texts

from kvlib.lab.figures import (
    answer_plots,
    benchmark_plots,
    dropping_plots,
    labels,
    memory_plots,
    position_plots,
    recall_plots,
    recipes,
)
from kvlib.lab.report import paths

sys.path.insert(0, str(paths.ROOT / "benchmarks"))

import draw  # noqa: E402

# What a Chinese figure may say in Latin letters: position modes, policies and scorers, a benchmark's tasks, units, a type of
# numbers, libraries, and n, the number of samples.
NAMES = set(
    "keep remap compact unrotated none sink_window uniform importance value_norm key_norm temporal_redundancy surprise random "
    "last_n recompute_recent OCR EPM ASI HLD MiB GiB bf16 kvlib transformers n".split()
)
STORED = [
    (folder, path.stem)
    for folder in (paths.FIGURES, paths.FIGURES / "full_size")
    for path in sorted((folder / "data").glob("*.json"))
]

PICTURES = (paths.ROOT / "benchmarks/results").glob("*.png")
SPEEDS = sorted(path.with_suffix(".json") for path in PICTURES if not path.stem.endswith("_zh"))


def latin_words(shown: list[str]) -> set[str]:
    """The words with a Latin letter, also of a single one and with accents, that are not among `NAMES`."""
    words = {word for text in shown for word in re.findall(r"\w+", text)}
    return {word for word in words if re.search("[A-Za-z\u00c0-\u024f]", word) and latin(word) not in NAMES}


def latin(word: str) -> str:
    """The part of a word that is not Chinese: Chinese characters may stand beside a name without a space."""
    return re.sub("[\u4e00-\u9fff]", "", word)


@pytest.mark.parametrize(("folder", "name"), STORED, ids=lambda value: getattr(value, "name", value))
def test_stored_figures_are_drawn_in_chinese(folder, name, monkeypatch, chinese_font):
    monkeypatch.setenv("FIGURE_LANG", "zh")
    shown = texts(recipes.draw(name, folder))
    assert any(re.search("[\u4e00-\u9fff]", text) for text in shown)
    assert not latin_words(shown)


@pytest.mark.parametrize("spread", [{}, {"chunk": [0.0, 99.0], "ttft": [0.0001, 99.0]}], ids=["no spread", "spread"])
@pytest.mark.parametrize("path", SPEEDS, ids=lambda path: path.stem)
def test_the_speed_is_drawn_in_chinese(path, spread, monkeypatch, chinese_font):
    monkeypatch.setenv("FIGURE_LANG", "zh")
    found = json.loads(path.read_text())
    for row in found["runs"]:
        row["spread"] = spread
    shown = texts(draw.draw(found))
    assert "缓存中的词元数（万）" in shown and not latin_words(shown)
    if path.stem == "h200_3b":
        assert {"0.5 万词元：", "5.4 万词元：", "13 万词元："} <= set(shown), "5k, 54k and 130k"
        assert {"22", "41", "82", "词元数（万）"} <= set(shown), "220k, 410k and 820k"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("预算（词元）", set()),
        ("n = 8，窗口，keep", set()),
        ("已占用 3 MiB", set()),
        ("首词元延迟（ms）", {"ms"}),
        ("已处理的chunks", {"已处理的chunks"}),
        ("x", {"x"}),
        ("keep_2", {"keep_2"}),
        ("café", {"café"}),
    ],
)
def test_a_latin_word_that_is_not_a_name_is_seen(text, left):
    assert latin_words([text]) == left


PLOTS = [answer_plots, benchmark_plots, dropping_plots, memory_plots, position_plots, recall_plots]


def test_every_label_in_the_plots_has_a_translation(monkeypatch):
    """Also those that no stored figure shows, such as a bar for a line that was not found."""
    monkeypatch.setenv("FIGURE_LANG", "zh")
    written = [
        call.args[0]
        for module in PLOTS
        for call in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "label"
    ]
    texts = [filled(argument) for argument in written] + [f"{name} (5)" for name in answer_plots.OUTCOMES | answer_plots.READ]
    assert len(texts) > 40 and "first eviction, at chunk 5" in texts
    assert not latin_words(labels.label(text) for text in texts)


def filled(argument: ast.expr) -> str:
    """The text of the argument of a call of `label`, with 5 for every value in it."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "5" for part in argument.values)
    return argument.value if isinstance(argument, ast.Constant) else "5"


def test_all_stored_figures_are_tested():
    assert {name for _, name in STORED} == set(recipes.RECIPES)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("chunk", "块"),
        ("budget (tokens)", "预算（词元）"),
        ("budget 1,300", "预算 1,300"),
        ("7 of 8 answers right: 88% (95% Wilson 53% to 98%)", "8 个回答中 7 个正确：88%（95% 威尔逊区间 53% 至 98%）"),
        ("exact answers\n(95% Wilson intervals)", "完全正确的比例\n（95% 威尔逊区间）"),
        ("current line\n(n = 3 to 18)", "当前行\n（n = 3 至 18）"),
        ("95% interval 22.9 to 24.6 ms", "95% 区间 22.9 至 24.6 毫秒"),
        ("with recall, 48 chunks", "召回，48 块的流"),
        ("backward (n = 40)", "回顾（n = 40）"),
        ("overlapping windows + ask while it runs", "重叠窗口 + 边看边问"),
        ("recall + overlapping windows", "召回 + 重叠窗口"),
        ("recall 2 + other wording", "召回 2 + 换一种问法"),
        ("sink + window", "汇聚点 + 窗口"),
        ("remap + lower resolution + other wording", "remap + 降低分辨率 + 换一种问法"),
        ("never on screen when asked (3)", "提问时未显示（3）"),
        ("other methods", "其他方法"),
        ("mean over SEED, MODE", "对 SEED, MODE 取平均"),
        ("value_norm", "value_norm"),
        ("a name of the {user} (n.n.)", "a name of the {user} (n.n.)"),
    ],
)
def test_labels_in_both_languages(english, chinese, monkeypatch):
    monkeypatch.delenv("FIGURE_LANG", raising=False)
    assert labels.label(english) == english
    monkeypatch.setenv("FIGURE_LANG", "zh")
    assert labels.label(english) == chinese
