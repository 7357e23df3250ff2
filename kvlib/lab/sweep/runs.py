"""The runs of a sweep on Dask: each executes the notebook once and leaves a folder that is complete or not there at all."""

import json
import os
import re
import shutil
import socket
import time
import traceback
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
from distributed import as_completed
from tqdm import tqdm

from kvlib.lab.report import paths
from kvlib.lab.report.report import git_state, write_atomic
from kvlib.lab.sweep.grid import Sweep, checksum
from kvlib.lab.sweep.measured import read_measured
from kvlib.lab.sweep.notebook import execute, last_lines
from kvlib.lab.sweep.workers import RETRIES, connected

UNFINISHED = re.compile(r"\.[0-9a-f]{8}-[0-9a-f]{8}")  # a folder in which a run is at work: .<sweep>-<run>
OWNER = ".owner"  # in that folder: the worker's host, process and when the process began
RUNNING: set[Path] = set()  # on a worker: the unfinished folders of the runs that it does


def execute_runs(source: str, todo: dict[str, dict], sweep: Sweep) -> dict[str, dict]:
    """Execute the runs {folder's name: parameters} on Dask and return {folder's name: outcome of `execute_run`}.

    source: the notebook's text. A failing run is shown and does not stop the others. No unfinished folder stays behind,
    whatever ends the sweep. Raises what `kvlib.lab.sweep.workers.connected` raises.
    """
    outcomes, sweep_id = {}, uuid.uuid4().hex[:8]
    if not todo:
        return outcomes
    try:
        with connected(sweep.scheduler, sweep.slurm, len(todo)) as client:
            futures = {}
            try:
                for name, values in todo.items():
                    arguments = (source, sweep.notebook.stem, values, sweep.out / name, sweep_id)
                    future = client.submit(execute_run, *arguments, key=f"{name}-{sweep_id}", retries=RETRIES)
                    futures[future] = name
                for future in tqdm(as_completed(futures), total=len(futures), desc="runs", unit="run"):
                    name = futures[future]
                    outcome = future.result() if future.status == "finished" else _lost(future, sweep.out / name)
                    if outcome["status"] == "failed":
                        tqdm.write(f"{name} failed\n{last_lines(outcome['error'])}")
                    outcomes[name] = outcome
            except BaseException:
                client.cancel(list(futures), force=True)
                client.run(stop_runs, sweep_id, on_error="ignore")
                raise
    finally:
        for part in _unfinished(sweep.out):
            if part.name.startswith(f".{sweep_id}-"):  # of workers that were killed
                shutil.rmtree(part, ignore_errors=True)
    return outcomes


def execute_run(source: str, stem: str, values: dict, folder: Path, sweep_id: str) -> dict:
    """On a worker: execute the notebook with `values` and leave everything in `folder`, which appears at once, complete.

    source, stem: the notebook's text and its name without the suffix. Returns the outcome: `status` ("done" or "failed"),
    `seconds`, `parameters`, `git`, `notebook` (checksum), `error` (a traceback, or ""). A run has failed when the notebook
    raises or leaves no report, and when its results cannot be stored. Raises InterruptedError when `stop_runs` ended it, and
    when its folder was deleted meanwhile.
    """
    os.environ.pop("REPORT_PATH", None)  # it has precedence over OUTPUT_DIR
    part = folder.with_name(f".{sweep_id}-{uuid.uuid4().hex[:8]}")
    git, start = git_state(), time.perf_counter()
    RUNNING.add(part)
    try:
        error = _execute(source, part, stem, values)
    except OSError:  # such as a full disk
        error = traceback.format_exc()
    outcome = {
        "status": "failed" if error else "done",
        "seconds": time.perf_counter() - start,
        "parameters": values,
        "git": git,
        "notebook": checksum(source),
    }
    if part not in RUNNING or (not error and not part.is_dir()):
        shutil.rmtree(part, ignore_errors=True)
        raise InterruptedError(f"{folder.name} was stopped")
    RUNNING.discard(part)
    try:
        _store(part, folder, outcome, error)
    except OSError:
        error = error or traceback.format_exc()
        shutil.rmtree(part, ignore_errors=True)
        _store_error(folder, error)
    return outcome | {"status": "failed" if error else "done", "error": error}


def stop_runs(sweep_id: str) -> None:
    """On a worker: end the kernel of the run that it does for this sweep, and delete the unfinished folder."""
    parts = {part for part in RUNNING if part.name.startswith(f".{sweep_id}-")}
    RUNNING.difference_update(parts)
    if parts:  # a worker does one run at a time, so its kernel is the run's
        for process in psutil.Process().children(recursive=True):
            if "ipykernel_launcher" in process.cmdline():
                process.kill()
                process.wait()
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)


def read_finished(folder: Path, values: dict, source: str) -> dict | None:
    """What `done.json` says, or None where the run did not finish with these parameters and this notebook.

    A run of which a file cannot be read has not finished.
    """
    try:
        done = json.loads((folder / "done.json").read_text())
        read_measured(folder)
        same = done["parameters"] == values and done["notebook"] == checksum(source)
        return done if same and {"status", "seconds", "git"} <= done.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove_dead(out: Path) -> None:
    """Delete the unfinished folders in `out` of workers that are surely dead, and name the others.

    A worker of a sweep that was killed may still be at work. Whether one on another machine is cannot be seen from here.
    """
    for part in _unfinished(out):
        if _may_be_alive(part):
            print(f"{paths.shown(part)} stays, because its worker may still be running; delete it when none is")
        else:
            shutil.rmtree(part, ignore_errors=True)


def _unfinished(out: Path) -> list[Path]:
    return [part for part in out.iterdir() if UNFINISHED.fullmatch(part.name)]


def _may_be_alive(part: Path) -> bool:
    try:
        owner = json.loads((part / OWNER).read_text())
        if owner["host"] != socket.gethostname():
            return True
        return psutil.Process(owner["pid"]).create_time() == owner["began"]
    except (psutil.NoSuchProcess, FileNotFoundError, ValueError, KeyError, TypeError):
        return False  # killed before it wrote the file, or while it did


def _execute(source: str, part: Path, stem: str, values: dict) -> str:
    """Execute the notebook's text in the new folder `part`, with its output in log.txt; "", or what was wrong."""
    part.mkdir()
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "began": psutil.Process().create_time()}
    (part / OWNER).write_text(json.dumps(owner))
    target = part / f"{stem}.ipynb"
    target.write_text(source)
    with open(part / "log.txt", "w") as log:
        error = execute(target, target, values | {"OUTPUT_DIR": str(part)}, log)
    if not error and not list(part.glob("*_report.json")):
        error = f"{stem} left no *_report.json in its OUTPUT_DIR: let it write a kvlib.lab.report.report.Report"
    return error


def _store(part: Path, folder: Path, outcome: dict, error: str) -> None:
    """Complete the folder of a run and put it in the place of an earlier, failed one."""
    for path in part.glob("*.ipynb"):  # let the executed notebook name the folder in which it will lie
        path.write_text(path.read_text().replace(part.name, folder.name))
    if error:
        write_atomic(part / "traceback.txt", error)
    else:
        write_atomic(part / "done.json", json.dumps(outcome, indent=1))
    (part / OWNER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _lost(future, folder: Path) -> dict:
    """The outcome of a run that returned nothing, such as one that killed every worker it was tried on."""
    error = "".join(traceback.format_exception(future.exception()))
    _store_error(folder, error)
    return {"status": "failed", "seconds": None, "error": error}


def _store_error(folder: Path, error: str) -> None:
    """Leave a folder with nothing but the traceback, or none where the disk is full."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        write_atomic(folder / "traceback.txt", error)
