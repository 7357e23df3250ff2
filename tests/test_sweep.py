"""Sweeps on a real Dask cluster of two worker processes: tables, dead workers, failing cells, reruns, interrupts."""

import json
import os
import re
import signal
import threading
import time

import dask
import nbformat
import pandas as pd
import psutil
import pytest
from distributed import Client

from kvlib.lab.report import paths
from kvlib.lab.sweep import sweep

PARAMETERS = """
TOKENS = 1
MODE = "keep"
BUDGETS = []
FLAGS = ""
OUTPUT_DIR = ""
"""
MARK = """
from pathlib import Path
print("tokens", TOKENS)
(Path(FLAGS) / f"started {TOKENS} {MODE}").touch()
"""
WITHOUT_MODELS = f"""
import sys, types
package = types.ModuleType("kvlib")  # its __init__ would import transformers, half of a test's time
package.__path__ = [{str(paths.ROOT / "kvlib")!r}]
sys.modules["kvlib"] = package
"""
REPORT = f"""{WITHOUT_MODELS}
from kvlib.lab.report.report import Report
report = Report("tiny", dict(TOKENS=TOKENS, MODE=MODE), 0, "cpu", OUTPUT_DIR)
report.measure("constant", 7)
report.measure("accuracy", TOKENS / 10 + (MODE == "remap"), n=20, interval=(0.0, 2.0), unit="share")
report.measure("answer", "yes")
report.check("P1", "few tokens", TOKENS, TOKENS < 2)
report.write()
"""
QUICK_REPORT = """
import json
measured = [{"name": "tokens", "value": TOKENS, "n": None, "interval": None, "unit": "tokens"}]
Path(OUTPUT_DIR, "tiny_report.json").write_text(json.dumps({"measurements": measured, "criteria": []}))
"""
FAIL_ONCE = """
if TOKENS == 2 and not (Path(FLAGS) / "repaired").exists():
    raise ValueError(f"{TOKENS} tokens are too many")
"""
WAIT = """
import time
time.sleep(60)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    preload = tmp_path_factory.mktemp("preload") / "without_models.py"
    preload.write_text(WITHOUT_MODELS)
    settings = dask.config.set({"distributed.worker.preload": [str(preload)]})
    with settings, sweep.LocalWorkers(2, gpus=["4", "6"]) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture
def run(cluster, tmp_path):
    """Sweeps a notebook of these cells on the cluster: `run(cells, *arguments)`; results in `tmp_path/out`."""

    def start(cells: list[str], *arguments: str) -> int:
        where = ["--out", str(tmp_path / "out"), "--scheduler", cluster.scheduler.address]
        return sweep.main([str(notebook(tmp_path, *cells)), "-g", f"FLAGS={tmp_path}", *where, *arguments])

    return start


def notebook(folder, *cells: str):
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    made.metadata["language_info"] = {"name": "python"}
    made.cells = [nbformat.v4.new_code_cell(source, id=f"cell{i}") for i, source in enumerate((PARAMETERS, *cells))]
    made.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(made, folder / "tiny.ipynb")
    return folder / "tiny.ipynb"


def folders(tmp_path) -> list[str]:
    """The cells' folders in tmp_path/out, hidden ones too, without what FLAGS adds to their names."""
    return sorted(re.sub("^FLAGS=[^,]*,", "", path.name) for path in (tmp_path / "out").iterdir() if path.is_dir())


def when_started(flag, action):
    """Call `action` from a thread once the file `flag` is there."""

    def wait():
        while not flag.exists():
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_each_worker_has_a_gpu_of_its_own_and_one_thread(cluster):
    assert sorted(cluster.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["4", "6"]
    assert set(cluster.nthreads().values()) == {1}


def test_all_cells_finish_although_a_worker_is_killed(run, cluster, tmp_path, capsys):
    before = set(cluster.run(os.getpid).values())
    killed = []

    def kill():
        for pid in before:  # the worker whose kernel made the flag
            if any("ipykernel_launcher" in child.cmdline() for child in psutil.Process(pid).children()) and not killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    when_started(tmp_path / "started 1 keep", kill)
    assert run([MARK, REPORT], "-g", "TOKENS=1,3", "-g", "MODE=keep,remap") == 0
    cluster.wait_for_workers(2)
    assert killed and killed[0] not in cluster.run(os.getpid).values()

    assert folders(tmp_path) == [f"TOKENS={tokens},MODE={mode}" for tokens in (1, 3) for mode in ("keep", "remap")]
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet")
    assert list(table.columns) == ["FLAGS", "TOKENS", "MODE", *sweep.COLUMNS]
    assert set(table["status"]) == {"done"} and table["seconds"].gt(0).all()
    assert list(table["name"]) == ["constant", "accuracy", "answer", "P1"] * 4
    accuracy = table[table["name"] == "accuracy"].set_index(["TOKENS", "MODE"])
    assert accuracy["value"].to_dict() == {(1, "keep"): 0.1, (1, "remap"): 1.1, (3, "keep"): 0.3, (3, "remap"): 1.3}
    assert set(accuracy["n"]) == {20} and set(accuracy["high"]) == {2.0} and set(accuracy["unit"]) == {"share"}
    assert list(table.loc[table["name"] == "P1", "verdict"]) == ["PASS", "PASS", "FAIL", "FAIL"]
    assert set(table.loc[table["name"] == "answer", "text"]) == {"yes"}
    assert "accuracy: " in capsys.readouterr().out, "`constant` does not differ, so it is not drawn"
    assert (tmp_path / "out" / "sweep.png").is_file() and (tmp_path / "out" / "sweep.pdf").is_file()

    (one,) = (tmp_path / "out").glob("*TOKENS=3,MODE=remap")
    assert (one / "log.txt").read_text() == "tokens 3\n"
    done = json.loads((one / "done.json").read_text())
    assert (done["parameters"]["TOKENS"], done["parameters"]["MODE"]) == (3, "remap")
    assert done["git"].keys() == {"commit", "dirty"}
    assert one.name in (one / "tiny.ipynb").read_text(), "the notebook's OUTPUT_DIR is where it lies"


def test_a_failing_cell_is_shown_and_only_it_runs_again(run, tmp_path, capsys):
    cells = [MARK, FAIL_ONCE, QUICK_REPORT]
    assert run(cells, "-g", "TOKENS=1,2,3") == 1
    assert "ValueError: 2 tokens are too many" in capsys.readouterr().out
    (failed,) = (tmp_path / "out").glob("*TOKENS=2")
    assert "ValueError: 2 tokens are too many" in (failed / "traceback.txt").read_text()
    assert not (failed / "done.json").exists()
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet").set_index("TOKENS")
    assert table["status"].to_dict() == {1: "done", 2: "failed", 3: "done"}
    assert table["value"].dropna().to_dict() == {1: 1, 3: 3}

    for flag in tmp_path.glob("started*"):
        flag.unlink()
    (tmp_path / "repaired").touch()
    assert run(cells, "-g", "TOKENS=1,2,3") == 0
    assert "2 of 3 cells are finished and kept" in capsys.readouterr().out
    assert [flag.name for flag in tmp_path.glob("started*")] == ["started 2 keep"]
    assert sorted(path.name for path in failed.iterdir()) == ["done.json", "log.txt", "tiny.ipynb", "tiny_report.json"]
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet")
    assert list(table["status"]) == ["done"] * 3 and list(table["value"]) == [1, 2, 3]

    assert run(cells, "-g", "TOKENS=1,2,3", "--measure", "speed") == 1
    assert "no measurement 'speed' with numbers; choose from tokens" in capsys.readouterr().out
    assert run([MARK, "1 / 0"], "-g", "TOKENS=3") == 1, "a changed notebook runs again"


def test_a_notebook_without_a_report_or_with_a_dead_kernel_has_failed(run, tmp_path):
    assert run([MARK, "import os\nif TOKENS == 2: os._exit(1)"], "-g", "TOKENS=1,2") == 1
    reasons = [path.read_text() for path in sorted((tmp_path / "out").glob("*/traceback.txt"))]
    assert "left no *_report.json" in reasons[0] and "DeadKernelError" in reasons[1]


@pytest.fixture
def interruptible():
    """ctrl-C raises KeyboardInterrupt, as in a terminal; a shell in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_leaves_no_unfinished_folder_and_no_kernel(run, cluster, tmp_path, capsys, interruptible):
    when_started(tmp_path / "started 2 keep", lambda: os.kill(os.getpid(), signal.SIGINT))
    cells = [MARK, QUICK_REPORT, "if TOKENS == 2:" + WAIT.replace("\n", "\n    ")]
    assert run(cells, "-g", "TOKENS=1,2,3") == 130
    assert "interrupted" in capsys.readouterr().err
    assert set(folders(tmp_path)) <= {"TOKENS=1", "TOKENS=3"}
    assert all((folder / "done.json").is_file() for folder in (tmp_path / "out").iterdir())
    assert not [child for pid in cluster.run(os.getpid).values() for child in psutil.Process(pid).children()]


def test_an_unreachable_scheduler_is_named(tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.1s"}),
        pytest.raises(SystemExit, match="no Dask scheduler at tcp://127.0.0.1:1:"),
    ):
        sweep.main(
            [str(notebook(tmp_path)), "-g", "TOKENS=1", "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:1"]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the grid is empty: give at least one -g"),
        (["-g", "TOKEN=1,2"], "no parameter TOKEN: choose from BUDGETS, FLAGS, MODE, TOKENS$"),
        (["-g", "TOKENS"], "-g TOKENS: write it as NAME=VALUE,VALUE"),
        (["-g", "TOKENS="], "-g TOKENS=: no values"),
        (["-g", "BUDGETS=[1,2"], r"-g BUDGETS=\[1,2: not a list of YAML values"),
        (["-g", "MODE=2026-01-01"], "-g MODE=2026-01-01: not a list of YAML values, put odd texts in quotes"),
        (["-g", "TOKENS=1,1"], "-g TOKENS=1,1: a value is given twice"),
        (["-g", "TOKENS=1", "-g", "TOKENS=2"], "-g TOKENS=2: TOKENS is given twice"),
        (["-g", "OUTPUT_DIR=a"], "OUTPUT_DIR is set by the sweep"),
        (["-g", "TOKENS=1", "--slurm", "absent.yml"], "dask-jobqueue|absent.yml"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        sweep.main([str(notebook(tmp_path)), *arguments])
    assert re.search(message, capsys.readouterr().err)


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with sweep._alone_in(out), pytest.raises(SystemExit, match="another sweep is writing to .*out: wait for it"):
        sweep.main([str(notebook(tmp_path)), "-g", "TOKENS=1", "--out", str(out)])
    with sweep._alone_in(out):
        pass  # free again


def test_a_missing_notebook_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        sweep.main(["absent.ipynb", "-g", "A=1"])
    assert re.search(r"no notebook at .*absent\.ipynb", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("config", "message"),
    [("cores: 1", "no n_workers"), ("{n_workers: 2, cores: 8}", "cores must equal processes"), ("[", "cannot be read as YAML")],
)
def test_a_slurm_file_that_cannot_work_is_refused(tmp_path, monkeypatch, config, message):
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: name)
    (tmp_path / "slurm.yml").write_text(config)
    with pytest.raises(ValueError, match=message):
        sweep._read_slurm(str(tmp_path / "slurm.yml"))


def test_values_are_yaml():
    values = sweep._read_values("", '1,0.5,1e-3,[600,800],keep,"2",true,data/x')
    assert values == [1, 0.5, 0.001, [600, 800], "keep", "2", True, "data/x"]


def test_folders_are_readable_and_never_shared():
    assert sweep.cell_name({"MAX_CACHE_TOKENS": 800, "CHUNK_FRAMES": 2}) == "MAX_CACHE_TOKENS=800,CHUNK_FRAMES=2"
    assert sweep.cell_name({"MODE": "keep", "BUDGETS": [1, 2]}) == "MODE=keep,BUDGETS=[1,2]"
    values = [800, "800", 800.0, True, "true", None, "null", "a/b", "a_b", "a:b", "", [], "[]", {"a": 1}, "x" * 300]
    names = [sweep.cell_name({"A": value, "B": "y" * 300}) for value in values]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or len(name) > 220]


def test_figures_show_the_values():
    grid = {"TOKENS": [1, 3], "MODE": ["remap", "keep"], "SEED": [0, 1]}
    rows = [
        {"TOKENS": t, "MODE": m, "SEED": s, "name": "share", "value": t + s, "low": t - 1, "high": t + 2, "unit": "%"}
        for t in grid["TOKENS"]
        for m in grid["MODE"]
        for s in grid["SEED"]
    ]
    table = pd.DataFrame(rows)
    assert sweep.differing(table) == ["share"]
    axis = sweep.plot_sweep(table, grid, "share").axes[0]
    assert axis.get_title() == "mean over SEED"
    assert [float(text.get_text()) for text in axis.texts] == [1.5, 1.5, 3.5, 3.5]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["remap", "keep"]
    some = table[(table["MODE"] == "keep") & (table["SEED"] == 0)]
    axis = sweep.plot_sweep(some, grid | {"MODE": ["keep"], "SEED": [0]}, "share").axes[0]
    assert (list(axis.lines[0].get_xdata()), list(axis.lines[0].get_ydata())) == ([1, 3], [1, 3])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("TOKENS", "share (%)")
