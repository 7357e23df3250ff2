"""Every text of every figure is Chinese when the figures are, apart from names; English figures say what the code says."""

import re

import pytest
from drawn import texts

from kvlib.lab.figures import labels, recipes
from kvlib.lab.figures.answer_plots import shorten
from kvlib.lab.report import paths

# Names of policies, scorers, position modes and a benchmark's tasks, and units: what a Chinese figure may say in Latin letters.
NAMES = set(
    "keep remap compact unrotated none sink_window uniform importance value_norm key_norm temporal_redundancy surprise random "
    "last_n recompute_recent OCR EPM ASI HLD MiB GiB bf16".split()
)
STORED = [
    (folder, path.stem)
    for folder in (paths.FIGURES, paths.FIGURES / "full_size")
    for path in sorted((folder / "data").glob("*.json"))
]


def english_words(shown: list[str]) -> set[str]:
    return {word for text in shown for word in re.findall(r"[A-Za-z][A-Za-z_0-9]+", text)} - NAMES


@pytest.mark.parametrize(("folder", "name"), STORED, ids=lambda value: getattr(value, "name", value))
def test_stored_figures_are_drawn_in_chinese(folder, name, monkeypatch, chinese_font):
    monkeypatch.setenv("FIGURE_LANG", "zh")
    shown = texts(recipes.draw(name, folder))
    if name == "03_lines":  # the subtitles of the video
        subtitles = recipes.read_table(folder / "data" / f"{name}_lines.csv")["text"].map(shorten).tolist()
        assert set(subtitles) <= set(shown)
        shown = [text for text in shown if text not in subtitles]
    assert any(re.search("[\u4e00-\u9fff]", text) for text in shown)
    assert not english_words(shown)


def test_all_stored_figures_are_tested():
    assert {name for _, name in STORED} == set(recipes.RECIPES)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("chunk", "块"),
        ("budget (tokens)", "预算（词元）"),
        ("budget 1,300", "预算 1,300"),
        ("7 of 8 answers right: 88% (95% Wilson 53% to 98%)", "8 个回答中 7 个正确：88%（95% 威尔逊区间 53% 至 98%）"),
        ("exact answers\n(n = 3 to 18, 95% intervals)", "完全正确的比例\n（n = 3 至 18，95% 区间）"),
        ("backward (n = 40)", "回顾（n = 40）"),
        ("overlapping windows + ask while it runs", "重叠窗口 + 边看边问"),
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
