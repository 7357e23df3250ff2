"""The console command: help is quick and complete, options reach the code behind them, errors give the right exit status."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import kvlib.lab.ask
from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.report.report import Report
from kvlib.lab.study.clips import write_video
from kvlib.video import VideoChunks

COMMANDS = ("workbook", "sweep", "figures", "page", "ask", "subtitles", "benchmark", "doctor")
CLIP = paths.DATA / "clips/short.mp4"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_and_the_exit_status(kvlib, command):
    status, shown = kvlib(command, "--help")
    assert status == 0
    assert f"Usage: root {command}" in shown and "Exit status: 0" in shown
    options = {"workbook": ["-p"], "sweep": ["-g", "--measure", "--out", "--scheduler", "--slurm"], "figures": [], "page": [],
               "ask": ["--at", "--model", "--budget", "--chunk-frames", "--drop-static"],
               "subtitles": ["-o", "--every", "--language", "--model", "--budget", "--chunk-frames", "--drop-static"],
               "benchmark": ["--data", "--repo", "--model", "--out", "--mode", "--budget", "--policy", "--positions",
                             "--recall", "--drop-static", "--fps", "--height", "--chunk-frames", "--free-answers",
                             "--scheduler", "--slurm"],
               "doctor": ["--model"]}[command]  # fmt: skip
    assert all(option in shown for option in options)


def test_help_of_all_lists_the_commands(kvlib):
    status, shown = kvlib("--help")
    assert status == 0 and all(command in shown for command in COMMANDS)


def test_help_loads_nothing_that_is_slow():
    code = (
        "import sys\nfrom kvlib.lab.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'pandas', 'dask', 'papermill') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_the_page_of_a_folder_is_written_again(kvlib, tmp_path):
    Report("01_sink_detection", {}, 0, "cpu", str(tmp_path)).write()
    assert kvlib("page", str(tmp_path)) == (0, f"{tmp_path}/index.html")
    assert "01_sink_detection" in (tmp_path / "index.html").read_text()
    status, shown = kvlib("page", str(tmp_path / "absent"))
    assert status == 2 and "no folder" in shown and "absent" in shown


def test_a_sweep_that_cannot_be_read_is_a_wrong_argument(kvlib):
    status, shown = kvlib("sweep", "absent.ipynb", "-g", "A=1")
    assert status == 2 and "absent.ipynb" in shown
    status, shown = kvlib("sweep", "notebooks/02_oom_free.ipynb")
    assert status == 2 and "the grid is empty: give at least one -g NAME=VALUE,VALUE" in shown


def test_a_sweep_gets_its_options_and_gives_its_exit_status(kvlib, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("kvlib.lab.sweep.sweep.run_sweep", lambda sweep: given.append(sweep) or 130)
    options = ["-g", "CHUNK_FRAMES=2,4", "-g", "SAMPLE_FPS=1e-1", "--measure", "speed", "--out", str(tmp_path)]
    status, _ = kvlib("sweep", "notebooks/02_oom_free.ipynb", *options, "--scheduler", "tcp://host:8786")
    assert status == 130
    (sweep,) = given
    assert sweep.grid == {"CHUNK_FRAMES": [2, 4], "SAMPLE_FPS": [0.1]}
    assert (sweep.notebook.name, sweep.out, sweep.measure) == ("02_oom_free.ipynb", tmp_path, "speed")
    assert (sweep.scheduler, sweep.slurm) == ("tcp://host:8786", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["02_oom_free", "-p", "SAMPLE_FPS", "-1"], "SAMPLE_FPS=-1: give a positive number of frames per second"),
        (["02_oom_free", "-p", "VIDEO_PATH", "nowhere.mp4"], "no video at "),
        (["05_policy_comparison", "-p", "ASK_INTERVAL", "9999"], "ASK_INTERVAL=9999: "),
        (["01_sink_detection", "-p", "MODEL_PATH", "/nowhere"], "no model directory at /nowhere"),
    ],
)
def test_parameters_and_inputs_are_checked_before_a_notebook_runs(kvlib, monkeypatch, arguments, message):
    monkeypatch.setattr("kvlib.lab.workbook.run_workbook", None)  # must not be called
    status, shown = kvlib("workbook", *arguments)
    assert status == 2 and message in shown and "Traceback" not in shown


def test_a_sweep_without_workers_has_failed(kvlib, tmp_path, monkeypatch):
    monkeypatch.setattr("kvlib.lab.sweep.workers.Client", lambda address: (_ for _ in ()).throw(OSError("refused")))
    grid, out = ["-g", "CHUNK_FRAMES=2"], ["--out", str(tmp_path)]
    status, shown = kvlib("sweep", "notebooks/02_oom_free.ipynb", *grid, *out, "--scheduler", "tcp://host:8786")
    assert status == 1 and "no Dask scheduler at tcp://host:8786" in shown and "Usage" not in shown


def test_figures_are_redrawn_from_their_data(kvlib, tmp_path):
    shutil.copytree(paths.FIGURES / "data", tmp_path / "data", ignore=lambda _, names: [n for n in names if "03_ttft" not in n])
    status, shown = kvlib("figures", str(tmp_path))
    assert status == 0 and shown == str(tmp_path / "03_ttft.png")
    assert (tmp_path / "03_ttft.png").is_file()


def test_a_folder_without_figures_is_a_wrong_argument(kvlib, tmp_path):
    status, shown = kvlib("figures", str(tmp_path))
    assert status == 2 and "no stored figures in" in shown


@pytest.fixture
def tiny(model, processor, monkeypatch):
    """The tiny random model in the place of whatever `ask` would load; collects the paths that were asked for."""
    asked = []
    monkeypatch.setattr(kvlib.lab.ask, "load", lambda path: asked.append(path) or (model, processor))
    return asked


@pytest.mark.parametrize(
    ("options", "count", "drop"), [((), 2, 0.0), (("--chunk-frames", "8", "--drop-static", "0.03"), 8, 0.03)]
)
def test_a_question_about_a_video(kvlib, tiny, monkeypatch, options, count, drop):
    made = []
    monkeypatch.setattr(
        "kvlib.lab.ask.VideoStreamingInference", lambda *a, **k: made.append(VideoStreamingInference(*a, **k)) or made[-1]
    )
    status, shown = kvlib("ask", str(CLIP), "What?", "--budget", "300", *options)
    assert status == 0 and tiny == [str(paths.READER)]
    expected = VideoStreamingInference(made[0].model, made[0].processor, "cpu", EvictionConfig(300), drop_static=drop)
    for _, frames in VideoChunks(CLIP, count):
        expected.append_video_chunk(frames, 2.0)
    assert made[0].cache_manager.fingerprint() == expected.cache_manager.fingerprint()
    answer, _ = expected.ask("What?", do_sample=False)
    assert shown.endswith(" ".join(answer.split()))


def test_frames_after_the_moment_are_not_seen(engine, tmp_path):
    """A video of 8 s at 2 frames per second: frame i is shown at i / 2 s, so that up to 2.6 s there are six."""
    frames = [np.full((56, 84, 3), 10 * i, np.uint8) for i in range(16)]
    write_video(tmp_path / "grey.mp4", frames, fps=2.0)
    for at, count in ((0, 1), (0.4, 1), (0.5, 2), (2.4, 5), (2.6, 6), (100, 16)):
        used, seen = engine(), []
        used.append_video_chunk = lambda frames, *rate, used=used, seen=seen: seen.extend(frames) or real(used, frames, *rate)
        kvlib.lab.ask.stream_until(used, VideoChunks(tmp_path / "grey.mp4"), at)
        assert len(seen) == count, at
        assert used.cache_manager.chunks[-1].time_s == (count - 1) / 2
        assert [round(float(frame.mean()) / 10) for frame in seen] == list(range(count))


def real(engine, frames, *rate):
    return type(engine).append_video_chunk(engine, frames, *rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "What?"], "no video file at .*nowhere.mp4"),
        ([str(CLIP), "What?", "--model", "/nowhere"], "no model directory at /nowhere"),
        ([str(CLIP), " "], "the question is empty"),
        ([str(CLIP), "What?", "--budget", "20"], "raise max_cache_tokens"),
        ([str(CLIP), "What?", "--at", "-1"], "--at.*greater than or equal to 0"),
        ([str(CLIP), "What?", "--drop-static", "1"], "--drop-static.*less than or equal to 0.99"),
    ],
)
def test_what_cannot_be_asked_is_a_wrong_argument(kvlib, tiny, arguments, message):
    status, shown = kvlib("ask", *arguments)
    assert status == 2 and re.search(message, shown), shown
