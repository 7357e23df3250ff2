"""Tables of several runs together, and the reading set, whose truths are those of its scenes."""

import json

import pandas as pd
import pytest

from kvlib.lab.benchmarks.ovo import scorer
from kvlib.lab.benchmarks.ovo.loader import load
from kvlib.lab.benchmarks.protocol import Protocol
from kvlib.lab.benchmarks.results import (
    caption,
    compared,
    method_name,
    protocol,
    protocol_table,
    read_tables,
    readable,
    write_results,
)
from kvlib.lab.benchmarks.runs import Run, answer_here, compare_alone
from kvlib.lab.benchmarks.small_sets import write_reading
from kvlib.lab.study.retention import draw_history_stream

AGES = (2, 7)


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    write_reading(folder, 2, 10, AGES, seed=3)
    return folder


@pytest.fixture(scope="module")
def tables(reading, model, processor, tmp_path_factory):
    """Tables of two runs of the tiny model, in the folders `window` and `recall`."""
    loaded, files = load(reading / "data", reading), {}
    for name, recall in (("window", 0), ("recall", 1)):
        made = Protocol("models/tiny_model", 700, recall=recall, height=140, free_answers=True, max_new_tokens=4)
        run = Run("ovo", loaded, made, tmp_path_factory.mktemp("runs") / name)
        table = answer_here(run, model, processor)
        write_results(table, scorer, run.out, "ovo")
        files[name] = run.out / "ovo.parquet"
        asked = [question for question in loaded.questions if question.mode == "real-time"][:4]
        assert compare_alone(run, model, processor, table, asked)["same"].tolist() == [True] * 4
    return files


def test_the_truths_of_the_reading_set_are_those_of_its_scenes(reading):
    entries = json.loads((reading / "data/ovo_bench_new.json").read_text())
    assert [entry["id"] for entry in entries] == list(range(2 * (6 + len(AGES) + 2)))
    for stream in range(2):
        scenes, shown = draw_history_stream(10, AGES, 3 + stream)
        own = [entry for entry in entries if entry["video"] == f"reading/{stream}.mp4"]
        assert [entry["task"] for entry in own] == ["OCR"] * 6 + ["EPM"] * 2 + ["ASI", "HLD"]
        assert all(entry["options"][entry["gt"]] == entry["answer"] and len(set(entry["options"])) == 4 for entry in own)
        for entry in own[:6]:
            second = int(entry["realtime"])
            assert entry["answer"] == (scenes[second].text or f"Line {second}")
        assert len({entry["realtime"] % 1 for entry in own[:6]}) == 2, "on a boundary of chunks, and inside one"
        for entry, (age, color) in zip(own[6:8], shown.items(), strict=True):
            assert entry["answer"] == scenes[9 - age].text and f"the {color} card" in entry["question"]
            assert f"No {color} card seen" in entry["options"]
        assert own[8]["answer"] == scenes[0].text
        assert own[9]["answer"].startswith("No ") and own[9]["answer"].split()[1] not in shown.values()
    with pytest.raises(ValueError, match="8 ages: give at most 7"):
        write_reading(reading, 1, 10, range(1, 9), seed=0)


def test_runs_are_compared_by_the_names_of_their_folders(tables):
    found = read_tables(list(map(str, tables.values())))
    assert list(found) == ["window", "recall"]
    rows, tasks, modes = compared(found, scorer, seed=0)
    assert len(rows) == 40 and set(rows["method"]) == {"window", "recall"}
    assert list(tasks["task"]) == ["OCR", "EPM", "ASI", "HLD"] * 2
    assert list(modes["mode"]) == ["real-time", "backward", "total without forward"] * 2
    shown = readable(tasks, "task")
    assert list(shown.columns) == ["window", "recall"] and list(shown.index) == ["OCR", "EPM", "ASI", "HLD"]
    ocr = tasks.iloc[0]
    assert shown.loc["OCR", "window"] == f"{ocr['share']:.2f}, n = 12", "two videos have no interval"
    assert list(readable(modes, "mode").index) == ["real-time", "backward", "total without forward"]


def test_the_protocol_of_a_table_is_short_in_its_caption(tables):
    rows = read_tables([str(tables["recall"])])["recall"]
    known = protocol(rows)
    assert (known["recall"], known["pixels"], known["fps"]) == ("1", "280x140", "2.0")
    assert known["answers"] == "free, nearest option"
    assert protocol_table(rows).loc["budget", "value"] == "700"
    assert method_name(rows) == "sink_window, remap, recall 1"
    text = caption(rows, "ovo")
    assert "model tiny_model;" in text and f"prompt_sha256 {known['prompt_sha256'][:12]};" in text
    assert "models/" not in text and text.endswith("of the answers came after an eviction.")


def test_tables_that_cannot_be_compared_are_named(tables, tmp_path):
    window = str(tables["window"])
    with pytest.raises(FileNotFoundError, match="no table at .*absent.parquet: give the .parquet that `kvlib benchmark` wrote"):
        read_tables([window, str(tmp_path / "absent.parquet")])
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match="text.parquet is no table"):
        read_tables([str(tmp_path / "text.parquet")])
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet is another table"):
        read_tables([str(tmp_path / "other.parquet")])
    with pytest.raises(ValueError, match="there is a table in another folder window too"):
        read_tables([window, window])
    pd.read_parquet(window).assign(benchmark="streamingbench").to_parquet(tmp_path / "bench.parquet")
    with pytest.raises(ValueError, match="tables of ovo, streamingbench: give those of one benchmark"):
        read_tables([window, str(tmp_path / "bench.parquet")])
