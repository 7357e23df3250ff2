"""Sweeps on a real Dask cluster of two worker processes: tables, dead workers, failing cells, interrupts, full disks."""

import errno
import importlib
import json
import os
import re
import signal
import sys
import threading
import time

import pandas as pd
import psutil
import pytest
from tiny import FAIL_ONCE, MARK, QUICK_REPORT, REPORT, WAIT

from kvlib.lab.sweep import runs
from kvlib.lab.sweep.grid import COLUMNS


def folders(tmp_path) -> list[str]:
    """The runs' folders in tmp_path/out, hidden ones too, without what FLAGS adds to their names."""
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


def test_all_runs_finish_although_a_worker_is_killed(run, cluster, tmp_path, capsys):
    before = set(cluster.run(os.getpid).values())
    killed = []

    def kill():
        for pid in before:  # the worker whose kernel made the flag
            if any("ipykernel_launcher" in child.cmdline() for child in psutil.Process(pid).children()) and not killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    when_started(tmp_path / "started 1 keep", kill)
    assert run([MARK, REPORT], "TOKENS=1,3", "MODE=keep,remap") == 0
    cluster.wait_for_workers(2)
    assert killed and killed[0] not in cluster.run(os.getpid).values()

    assert folders(tmp_path) == [f"TOKENS={tokens},MODE={mode}" for tokens in (1, 3) for mode in ("keep", "remap")]
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet")
    assert list(table.columns) == ["FLAGS", "TOKENS", "MODE", *COLUMNS]
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


def test_a_failing_run_is_shown_and_only_it_runs_again(run, tmp_path, capsys):
    cells = [MARK, FAIL_ONCE, QUICK_REPORT]
    assert run(cells, "TOKENS=1,2,3") == 1
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
    assert run(cells, "TOKENS=1,2,3") == 0
    assert "2 of 3 runs are finished and kept" in capsys.readouterr().out
    assert [flag.name for flag in tmp_path.glob("started*")] == ["started 2 keep"]
    assert sorted(path.name for path in failed.iterdir()) == ["done.json", "log.txt", "tiny.ipynb", "tiny_report.json"]
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet")
    assert list(table["status"]) == ["done"] * 3 and list(table["value"]) == [1, 2, 3]

    assert run(cells, "TOKENS=1,2,3", measure="speed") == 1
    assert "no measurement 'speed' with numbers; choose from tokens" in capsys.readouterr().out
    assert run([MARK, "1 / 0"], "TOKENS=3") == 1, "a changed notebook runs again"


def test_a_notebook_without_a_report_or_with_a_dead_kernel_has_failed(run, tmp_path):
    assert run([MARK, "import os\nif TOKENS == 2: os._exit(1)"], "TOKENS=1,2") == 1
    reasons = [path.read_text() for path in sorted((tmp_path / "out").glob("*/traceback.txt"))]
    assert "left no *_report.json" in reasons[0] and "DeadKernelError" in reasons[1]


@pytest.fixture
def interruptible():
    """ctrl-C raises KeyboardInterrupt, as in a terminal; a shell in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kernels(cluster) -> list[psutil.Process]:
    """The workers' child processes that run. One that has ended stays a zombie until its worker asks for its exit status."""
    children = [child for pid in cluster.run(os.getpid).values() for child in psutil.Process(pid).children()]
    return [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_an_interrupt_leaves_no_unfinished_folder_and_no_kernel(run, cluster, tmp_path, capsys, interruptible):
    when_started(tmp_path / "started 2 keep", lambda: os.kill(os.getpid(), signal.SIGINT))
    cells = [MARK, QUICK_REPORT, "if TOKENS == 2:" + WAIT.replace("\n", "\n    ")]
    assert run(cells, "TOKENS=1,2,3") == 130
    assert "interrupted" in capsys.readouterr().err
    assert set(folders(tmp_path)) <= {"TOKENS=1", "TOKENS=3"}
    assert all((folder / "done.json").is_file() for folder in (tmp_path / "out").iterdir() if folder.is_dir())
    deadline = time.monotonic() + 30  # a kernel that was killed ends a moment later
    while (running := kernels(cluster)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
def test_results_that_do_not_fit_on_the_disk_stop_no_other_run(run, cluster, tmp_path, capsys):
    """A limit on the size of files fails in the operating system, as a full disk does, in the workers and their kernels."""
    resource = pytest.importorskip("resource")
    before = cluster.run(resource.getrlimit, resource.RLIMIT_FSIZE)
    cluster.run(resource.setrlimit, resource.RLIMIT_FSIZE, (400_000, -1))
    large = "if TOKENS == 2: print('x' * 500_000)"
    try:
        assert run([MARK, large, QUICK_REPORT], "TOKENS=1,2,3") == 1
    finally:
        for address, limit in before.items():
            cluster.run(resource.setrlimit, resource.RLIMIT_FSIZE, limit, workers=[address])
    shown = capsys.readouterr().out
    assert "2 of 3 runs done" in shown and "File too large" in shown
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet").set_index("TOKENS")
    assert table["status"].to_dict() == {1: "done", 2: "failed", 3: "done"}
    (failed,) = (tmp_path / "out").glob("*TOKENS=2")
    assert "File too large" in (failed / "traceback.txt").read_text() and not (failed / "done.json").exists()
    assert run([MARK, large, QUICK_REPORT], "TOKENS=1,2,3") == 0, "with space the same sweep does the failed run again"
    assert "2 of 3 runs are finished and kept" in capsys.readouterr().out


def test_a_full_disk_in_one_run_does_not_stop_the_others(run, cluster, tmp_path, capsys):
    def fill():  # on a worker: no space for the results of the second run, nor for its traceback
        original = runs.write_atomic

        def write(path, content):
            if '"TOKENS": 2' in content or "TOKENS=2" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            original(path, content)

        runs.write_atomic = write

    cluster.run(fill)
    try:
        assert run([MARK, QUICK_REPORT], "TOKENS=1,2") == 1
    finally:
        cluster.run(lambda: importlib.reload(runs))
    shown = capsys.readouterr().out
    assert "1 of 2 runs done" in shown and "No space left on device" in shown
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet").set_index("TOKENS")
    assert table["status"].to_dict() == {1: "done", 2: "failed"}
    assert folders(tmp_path) == ["TOKENS=1"], "no unfinished folder"
    assert run([MARK, QUICK_REPORT], "TOKENS=1,2") == 0, "the same sweep, with space, does the failed run again"
