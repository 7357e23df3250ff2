"""The folder of a sweep: who may write to it, what dead sweeps left in it, and broken files."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import dask
import psutil
import pytest
from tiny import MARK, QUICK_REPORT, notebook

from kvlib.lab.sweep import runs
from kvlib.lab.sweep.grid import SweepError, checksum, read_sweep
from kvlib.lab.sweep.sweep import alone_in, run_sweep


def small(tmp_path, **options):
    return read_sweep(notebook(tmp_path), ["TOKENS=1"], str(tmp_path / "out"), **options)


def test_an_unreachable_scheduler_is_named(tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.1s"}),
        pytest.raises(SweepError, match="no Dask scheduler at tcp://127.0.0.1:1:"),
    ):
        run_sweep(small(tmp_path, scheduler="tcp://127.0.0.1:1"))


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with alone_in(out), pytest.raises(SweepError, match="another sweep is writing to .*out: wait for it"):
        run_sweep(small(tmp_path))
    with alone_in(out):
        pass  # free again


def test_a_sweep_that_is_killed_frees_its_folder(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from kvlib.lab.sweep.sweep import alone_in
with alone_in(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_shared_by_no_two_sweeps_either(tmp_path, monkeypatch, number):
    """Such as on NFS without a lock daemon: flock fails, and a file with the process's number takes its place."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_in(tmp_path), pytest.raises(SweepError, match="another sweep is writing to"):
        alone_in(tmp_path).__enter__()
    with alone_in(tmp_path):
        pass  # free again


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    sweep = read_sweep(notebook(tmp_path), ["TOKENS=1"], str(tmp_path / "file" / "out"))
    with pytest.raises(SweepError, match="nothing can be written to .*file/out .*: give another --out"):
        run_sweep(sweep)


def unfinished(out, name: str, **owner):
    (out / name).mkdir(parents=True)
    if owner:
        (out / name / runs.OWNER).write_text(json.dumps(owner))


def test_what_killed_sweeps_left_is_removed_and_nothing_else(run, tmp_path, capsys):
    out, host, me = tmp_path / "out", socket.gethostname(), psutil.Process()
    for name in (".0a1b2c3d-4e5f6071", ".ipynb_checkpoints", "notes", ".mine-1"):
        unfinished(out, name)
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    unfinished(out, ".0a1b2c3d-00000001", host=host, pid=dead.pid, began=1.0)
    unfinished(out, ".0a1b2c3d-00000002", host=host, pid=me.pid, began=me.create_time() - 100)  # its number was used again
    unfinished(out, ".0a1b2c3d-00000003", host=host, pid=me.pid, began=me.create_time())
    unfinished(out, ".0a1b2c3d-00000004", host="another", pid=1, began=1.0)
    assert run([MARK, QUICK_REPORT], "TOKENS=1") == 0
    left = {path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith("FLAGS")}
    assert left == {".ipynb_checkpoints", "notes", ".mine-1", ".0a1b2c3d-00000003", ".0a1b2c3d-00000004"}
    shown = capsys.readouterr().out
    assert shown.count("stays, because its worker may still be running") == 2


def test_an_owner_is_written_and_does_not_stay(run, tmp_path):
    look = "import os\n(Path(FLAGS) / 'owner').write_text((Path(OUTPUT_DIR) / '.owner').read_text())"
    assert run([MARK, look, QUICK_REPORT], "TOKENS=1") == 0
    owner = json.loads((tmp_path / "owner").read_text())
    assert owner["host"] == socket.gethostname() and psutil.Process(owner["pid"]).create_time() == owner["began"]
    assert not list((tmp_path / "out").rglob(".owner"))


def test_a_run_whose_folder_was_deleted_meanwhile_does_not_count_as_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_execute", lambda *_: "")
    with pytest.raises(InterruptedError):
        runs.execute_run("", "tiny", {}, tmp_path / "run", "0a1b2c3d")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_make_its_folder_has_failed_and_raises_nothing(tmp_path):
    (tmp_path / "file").touch()
    outcome = runs.execute_run("", "tiny", {}, tmp_path / "file" / "run", "0a1b2c3d")
    assert outcome["status"] == "failed" and "NotADirectoryError" in outcome["error"]


@pytest.mark.parametrize("broken", ["", "[]", "{}", "\xff", '{"parameters": {}}'])
@pytest.mark.parametrize("file", ["done.json", "tiny_report.json"])
def test_a_run_with_a_broken_file_is_done_again(tmp_path, file, broken):
    done = {"parameters": {"A": 1}, "notebook": checksum("n"), "status": "done", "seconds": 1.0, "git": {"commit": None}}
    (tmp_path / "done.json").write_text(json.dumps(done))
    (tmp_path / "tiny_report.json").write_text('{"measurements": [], "criteria": []}')
    assert runs.read_finished(tmp_path, {"A": 1}, "n") == done
    (tmp_path / file).write_bytes(broken.encode("latin-1"))
    assert runs.read_finished(tmp_path, {"A": 1}, "n") is None
