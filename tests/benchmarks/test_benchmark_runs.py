"""Whole runs on real Dask workers with the tiny model: tables with their protocol, going on, missing and broken videos."""

import json
import os
import re
import shutil
import signal
import threading
import time

import pandas as pd
import pytest
from distributed import Client
from typer.testing import CliRunner

from kvlib.lab.benchmarks.protocol import Protocol
from kvlib.lab.benchmarks.question import part_of
from kvlib.lab.benchmarks.results import show_results, write_results
from kvlib.lab.benchmarks.runs import NUMBERS, TEXTS, WHOLE_NUMBERS, Run, answer_all, answer_here
from kvlib.lab.benchmarks.scores import by_mode
from kvlib.lab.benchmarks.streaming import answer_alone
from kvlib.lab.cli import app
from kvlib.lab.sweep.workers import LocalWorkers


@pytest.fixture(scope="module")
def cluster():
    with LocalWorkers(2, gpus=[]) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture
def address(cluster):
    return cluster.scheduler.address


def when_a_video_is_finished(out, action) -> None:
    """Call `action` from a thread once the answers about a video are stored."""

    def wait():
        while not any((out / "videos").glob("*.json")):
            time.sleep(0.005)
        action()

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture
def run(loaded, checkpoint, address, tmp_path):
    """`run(name, **settings)`: a run of a small set in `tmp_path/out`, on the workers."""

    def make(name: str, **settings) -> Run:
        return Run(name, loaded(name), Protocol(str(checkpoint), **{"budget": 120} | settings), tmp_path / "out", address)

    return make


def without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["seconds", "ttft", "device"])


def test_a_run_of_ovo_has_a_row_for_every_question_although_a_worker_is_killed(run, cluster, model, processor, capsys):
    made = run("ovo")
    killed = min(cluster.run(os.getpid).values())
    when_a_video_is_finished(made.out, lambda: os.kill(killed, signal.SIGKILL))
    table = answer_all(made)
    cluster.wait_for_workers(2)
    assert killed not in cluster.run(os.getpid).values()
    assert list(table["id"]) == [question.id for question in made.loaded.questions]
    assert list(table.columns) == [*TEXTS, *NUMBERS, *WHOLE_NUMBERS]
    answered = table[table["status"] == "answered"]
    lost = table[table["status"] != "answered"].set_index("video")["status"].to_dict()
    assert lost == {"Ego4D/gone.mp4": "missing video", "Ego4D/broken.mp4": "unreadable video"}
    first = answered.iloc[0]
    expected = dict(
        benchmark="ovo", model=made.protocol.model, family="Qwen2.5-VL", dtype="float32", pixels="112x84", policy="sink_window",
        budget=120, positions="remap", recall="0", drop_static=0.0, fps=2.0, chunk_frames=2, height=0, answers="official",
        context="all", prompt_source="constant.py, utils/OVOBench.py", torch=__import__("torch").__version__,
    )  # fmt: skip
    assert first[list(expected)].to_dict() == expected
    assert re.fullmatch("[0-9a-f]{64} [0-9a-f]{64}", first["prompt_sha256"]) and re.fullmatch(
        "[0-9a-f]{64}", first["data_sha256"]
    )
    assert answered["evictions"].max() > 3 and answered["tokens_stored"].max() <= 120 and answered["seconds"].gt(0).all()
    assert re.search(
        r"0.0\d h of video: \d+ chunks of \d+ tokens and 30 questions, at .* and 2 at a time", capsys.readouterr().out
    )

    for question in made.loaded.questions:  # as asked alone
        if question.task in ("REC", "EPM") and question.video not in lost:
            source = made.protocol.source(made.loaded.videos[question.video])
            alone = answer_alone(made.protocol.engine(model, processor), source, question, made.protocol)
            assert alone["answer"] == answered.set_index("id").loc[question.id, "answer"]

    scorer = part_of("ovo", "scorer")
    write_results(table, scorer, made.out, "ovo")
    show_results(table, scorer, made.out, "ovo")
    shown = capsys.readouterr().out
    assert "29 of 31 questions answered" in shown and "1 questions of 1 videos, missing video: no such video file" in shown
    assert re.search(r"1 questions of 1 videos, unreadable video: .*broken.mp4.* is not a readable video", shown)
    lines = [line.split("  ")[0] for line in shown.splitlines() if " n = " in line and not line.startswith(" ")]
    assert lines == ["backward", "real-time", "forward", "total", "total without forward"]
    assert re.search(r"^  REC  +[\d.]+% +n = 4, left out 0$", shown, re.MULTILINE)
    stored = pd.read_parquet(made.out / "ovo.parquet")
    pd.testing.assert_frame_equal(without_times(stored.drop(columns="right")), without_times(table))
    assert stored["right"].isna().sum() == 2 and set(stored["right"].dropna()) <= {0, 1}
    assert "Qwen2.5-VL" in (made.out / "ovo.tex").read_text()
    assert {path.name for path in made.out.glob("ovo_*")} == {
        f"ovo_{k}.{t}" for k in ("tasks", "modes") for t in ("pdf", "png")
    }


def test_a_run_goes_on_with_the_videos_that_are_not_finished(run, capsys):
    made = run("ovo")
    whole = answer_all(made)
    files = sorted((made.out / "videos").iterdir())
    assert len(files) == 12, "broken and missing videos are not finished"
    kept = json.loads(files[0].read_text())
    kept[0]["answer"] = "kept from before"
    files[0].write_text(json.dumps(kept))
    files[1].unlink()
    files[2].write_text('[{"id": "cut o')
    before = {path: path.stat().st_mtime_ns for path in files[3:]}
    capsys.readouterr()
    again = answer_all(made)
    assert "10 of 13 videos are finished and kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files[3:]} == before
    assert (again["answer"] == "kept from before").sum() == 1
    changed = again["id"] == kept[0]["id"]
    pd.testing.assert_frame_equal(without_times(again[~changed]), without_times(whole[~changed]))

    fewer = answer_all(Run("ovo", made.loaded.chosen(["backward"]), made.protocol, made.out, made.scheduler))
    assert set(fewer["mode"]) == {"backward"} and len(fewer) == 8

    with pytest.raises(ValueError, match=r"has answers with budget=120, not 150: give another --out"):
        answer_all(run("ovo", budget=150))


def test_a_run_of_streamingbench_in_this_process_is_that_of_workers(run, model, processor):
    made = run("streamingbench", budget=200, recall=1, chunk_frames=4)
    table = answer_all(made)
    here = answer_here(made, model, processor)
    pd.testing.assert_frame_equal(without_times(here), without_times(table))
    assert table["status"].value_counts().to_dict() == {"answered": 23, "not asked": 2, "missing video": 1}
    assert table["recalled"].max() == 1 and (table["recall"] == "1").all()
    assert table[table["mode"] == "proactive"]["due_s"].tolist() == [6.0, 6.0]
    write_results(table, part_of("streamingbench", "scorer"), made.out, "streamingbench")
    modes = by_mode(pd.read_parquet(made.out / "streamingbench.parquet"), part_of("streamingbench", "scorer"))
    assert list(modes["mode"]) == ["real", "omni", "sqa", "proactive"]
    assert modes.set_index("mode").loc["real", ["n", "left_out"]].tolist() == [13, 3]


def test_a_budget_that_is_too_small_is_refused_before_a_video_is_streamed(run):
    made = run("ovo", budget=40)
    with pytest.raises(ValueError, match="budget=40: the first chunk of .* takes .* tokens"):
        answer_all(made)
    assert not (made.out / "videos").exists()


def test_a_video_that_fails_is_shown_and_tried_again(run, capsys):
    """A worker cannot write the answers, as on a full disk: a folder stands where the file belongs."""
    made = run("ovo")
    stuck = next(iter(made.loaded.by_video()))
    made.file(stuck).mkdir(parents=True)
    shown = answer_all(made)
    assert set(shown.loc[shown["video"] == stuck, "status"]) == {"failed"}
    assert f"{stuck} failed: IsADirectoryError" in capsys.readouterr().out
    assert (shown.loc[shown["video"] != stuck, "status"] == "answered").sum() > 20
    shutil.rmtree(made.file(stuck))
    assert "failed" not in set(answer_all(made)["status"])


@pytest.fixture
def command(sets, checkpoint, address, tmp_path):
    """Calls `kvlib benchmark ovo` on the workers, with results in `tmp_path/out`: exit status and output on one line."""

    def call(*more: str) -> tuple[int, str]:
        places = ["--data", str(sets / "ovo/data"), "--repo", str(sets / "ovo"), "--model", str(checkpoint)]
        rest = ["--budget", "120", "--out", str(tmp_path / "out"), "--scheduler", address]
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["benchmark", "ovo", *places, *rest, *more])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())

    return call


def test_the_command_goes_on_after_an_interrupt_and_gives_the_scores(command, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    videos = tmp_path / "out/videos"
    when_a_video_is_finished(tmp_path / "out", lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        status, shown = command("--mode", "backward", "--mode", "real-time")
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130 and "the same command goes on" in shown
    assert not (tmp_path / "out/ovo.parquet").exists()
    assert all(json.loads(path.read_text()) for path in videos.glob("*.json")), "every file is whole"
    status, shown = command("--mode", "backward", "--mode", "real-time")
    assert status == 0 and re.search(r"\d+ of 13 videos are finished and kept", shown)
    assert re.search(r"total without forward +[\d.]+% +n = 18, left out 2", shown) and "forward, " not in shown
    table = pd.read_parquet(tmp_path / "out/ovo.parquet")
    assert set(table["mode"]) == {"backward", "real-time"} and len(table) == 20
    status, shown = command("--mode", "backward", "--mode", "real-time", "--fps", "1")
    assert status == 2 and "has answers with fps=2.0, not 1.0" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "past"], "mode 'past' has no question: choose from backward"),
        (["--recall", "some"], "recall='some': give a number of chunks"),
        (["--recall", "-1"], "recall='-1': give a number"),
        (["--policy", "best"], "'best' is not one of"),
        (["--model", "/nowhere"], "no model directory at /nowhere"),
        (["--repo", "/nowhere"], "no folder /nowhere: give --repo a clone of https://github.com/JoeLeelyf/OVO-Bench"),
        (["--data", "/nowhere"], "no folder /nowhere: give --data"),
        (["--data", "/usr"], "none of the 14 videos is in /usr: give --data the folder that holds them"),
        (["--slurm", "a.yml"], "--scheduler and --slurm: give one of them"),
        (["--budget", "40"], "budget=40: the first chunk of"),
    ],
)
def test_what_cannot_be_run_is_a_wrong_argument(command, arguments, message):
    status, shown = command(*arguments)
    assert status == 2 and message in shown, shown
