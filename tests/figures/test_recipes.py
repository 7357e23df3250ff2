"""Figures are drawn from what was stored, the same again without a model."""

import inspect
import json

import numpy as np
import pandas as pd
import pytest
from drawn import with_shares

from kvlib.lab.figures import fonts
from kvlib.lab.figures import recipes as figures
from kvlib.lab.report import paths
from kvlib.lab.report.report import Report

SCORES = pd.DataFrame(
    [dict(question="title", position_mode=mode, chunks=n, correct=n % 5, n=7) for mode in ("keep", "remap") for n in (8, 21)]
).pipe(with_shares)

DRIFT = pd.DataFrame(dict(turns=[1, 9], method="chain", error=[0.1, 0.2]))


def points(figure) -> list:
    return [line.get_xydata().tolist() for axis in figure.axes for line in axis.get_lines()]


def test_made_and_redrawn_are_the_same_bytes(tmp_path):
    report = Report("04", {"SEED": 3}, 3, "cpu", str(tmp_path))
    made = figures.make("04_accuracy_over_length", report, scores=SCORES, first_eviction=np.float64(12.5))
    files = [tmp_path / f"04_accuracy_over_length.{kind}" for kind in ("pdf", "png")]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    assert figures.redraw_all([tmp_path]) == files[1:]
    assert [path.read_bytes() for path in files] == before
    assert points(made) == points(figures.RECIPES["04_accuracy_over_length"].draw(SCORES, 12.5))
    known = json.loads((tmp_path / "data/04_accuracy_over_length.json").read_text())
    assert known["provenance"] == report.provenance()
    assert known["numbers"] == {"first_eviction": 12.5}
    assert "Wilson" in known["caption"]


def test_tables_come_back_as_they_were(tmp_path):
    table = pd.DataFrame(
        dict(run="a", share=[1 / 3, float("nan")], event=["", "out of memory"], exact=[True, False], cache_tokens=[1, 2]),
        index=["a, b", "c"],
    ).assign(cache_bytes=5)
    figures.store("02_memory", tmp_path, {}, {"chunks": table, "budget_tokens": np.int64(5), "limit_bytes": float("nan")})
    back = figures.read_table(tmp_path / "data/02_memory_chunks.csv")
    pd.testing.assert_frame_equal(back, table, check_names=False)
    numbers = json.loads((tmp_path / "data/02_memory.json").read_text())["numbers"]
    assert numbers == {"budget_tokens": 5, "limit_bytes": None}


def test_an_unknown_figure_and_missing_data_are_named(tmp_path):
    with pytest.raises(ValueError, match="'06_new'.*RECIPES"):
        figures.make("06_new", Report("06", {}, 0, "cpu", str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="01_sinks.json: run its notebook"):
        figures.redraw("01_sinks", tmp_path)


def test_nothing_is_drawn_when_a_folder_has_no_figures(tmp_path):
    figures.store("05_drift", tmp_path / "full", {}, {"drift": DRIFT})
    with pytest.raises(FileNotFoundError, match=f"no stored figures in {tmp_path}/empty/data: run the notebooks"):
        figures.redraw_all([tmp_path / "full", tmp_path / "empty"])
    assert not (tmp_path / "full/05_drift.png").exists()


@pytest.mark.parametrize("folder", ["figures", "figures/full_size"])
def test_every_committed_figure_has_its_data_and_is_drawn_from_them(folder, tmp_path):
    drawn = {path.stem for path in (paths.ROOT / folder).glob("*.png") if not path.stem.endswith("_zh")}
    stored = {path.stem for path in (paths.ROOT / folder / "data").glob("*.json")}
    assert drawn == stored
    assert folder != "figures" or drawn == set(figures.RECIPES)
    for name in drawn:
        known = json.loads((paths.ROOT / folder / f"data/{name}.json").read_text())
        assert set(known["tables"]) | set(known["numbers"]) <= set(inspect.signature(figures.RECIPES[name].draw).parameters)
        assert known["caption"] == figures.RECIPES[name].caption
        assert known["provenance"]["seed"] is not None


def test_no_figure_is_drawn_past_the_recipes():
    sources = [path.read_text() for path in (paths.ROOT / "notebooks").glob("*.ipynb")]
    assert not any("save_figure" in source for source in sources)
    assert all(any(f'figures.make(\\"{name}\\"' in source for source in sources) for name in figures.RECIPES)


def test_chinese_figures_stand_beside_the_english_ones(tmp_path, monkeypatch, chinese_font):
    figures.store("05_drift", tmp_path, {}, {"drift": DRIFT})
    monkeypatch.setenv("FIGURE_LANG", "zh")
    assert figures.redraw_all([tmp_path]) == [tmp_path / "05_drift_zh.png"]
    assert (tmp_path / "05_drift_zh.png").is_file() and (tmp_path / "05_drift_zh.pdf").is_file()
    assert not (tmp_path / "05_drift.png").exists()


def test_without_a_chinese_font_or_language_the_message_says_what_to_do(tmp_path, monkeypatch):
    figures.store("05_drift", tmp_path, {}, {"drift": DRIFT})
    monkeypatch.setenv("FIGURE_LANG", "zh")
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ("No Such Font",))
    with pytest.raises(RuntimeError, match="FIGURE_LANG=zh needs a Chinese font.*fonts-noto-cjk"):
        figures.redraw("05_drift", tmp_path)
    monkeypatch.setenv("FIGURE_LANG", "fr")
    with pytest.raises(ValueError, match="'fr'.*set it to en or zh"):
        figures.redraw("05_drift", tmp_path)
