"""Run one notebook for every combination of parameters, in parallel on Dask, and gather what the runs measured.

Every combination, a run, has a folder such as `MAX_CACHE_TOKENS=800,CHUNK_FRAMES=2`: the executed notebook, its output as
`log.txt`, its reports and figures, and as the last file `done.json` (parameters, seconds, git state), or `traceback.txt`
when it failed. Beside the folders are `sweep.parquet`, one row per run and measurement, `sweep.png` and `sweep.pdf`.

The same sweep continues where it was stopped: finished runs are kept, unless the notebook has changed since. The runs of a
worker that dies are done again on another one. A run whose results cannot be written has failed; the others go on.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from kvlib.lab.report import paths
from kvlib.lab.report.report import git_state, write_atomic
from kvlib.lab.sweep.grid import Sweep, SweepError
from kvlib.lab.sweep.runs import execute_runs, read_finished, remove_dead
from kvlib.lab.sweep.table import draw, gather

LOCK = ".lock"  # in the sweep's folder; the operating system frees it when the process dies
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system without locks, such as NFS without its lock daemon
INTERRUPTED = 130  # the exit status of a shell command that was ended by ctrl-C


def run_sweep(sweep: Sweep) -> int:
    """Do the runs that are not finished, write the table and the figure; return the exit status.

    1 when a run failed, the table could not be written or the figure could not be drawn as asked, 130 after ctrl-C. Raises
    SweepError when there are no workers to be used, when another sweep writes to the folder, and when nothing can be written
    there.
    """
    source = sweep.notebook.read_text()  # once: the notebook may be edited while the sweep runs
    with alone_in(sweep.out):
        remove_dead(sweep.out)  # of a sweep that was killed
        try:
            return _complete(source, sweep)
        except KeyboardInterrupt:
            print("\ninterrupted: the same command continues with the runs that are not finished", file=sys.stderr)
            return INTERRUPTED
        except OSError as error:  # such as no space for the workers' own files
            raise SweepError(f"the sweep stopped ({error}): the same command continues it when that is mended") from error


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Inside, no other sweep writes to the folder `out`, which is made if it is not there.

    The operating system holds the lock, or where it has none for the file system a file with the process's number, which is
    ignored once that process is dead. Raises SweepError when another sweep writes there, and when nothing can be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = _acquired(FileLock(out / LOCK))
    except Timeout as error:
        raise SweepError(f"another sweep is writing to {paths.shown(out)}: wait for it, or give another --out") from error
    except OSError as error:
        raise SweepError(f"nothing can be written to {paths.shown(out)} ({error}): give another --out") from error
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> BaseFileLock:
    try:
        lock.acquire(blocking=False)
    except OSError as error:
        if isinstance(error, Timeout) or isinstance(lock, SoftFileLock) or error.errno not in NO_LOCKS:
            raise
        return _acquired(SoftFileLock(f"{lock.lock_file}.pid"))
    return lock


def _complete(source: str, sweep: Sweep) -> int:
    runs = sweep.runs()
    finished = {name: read_finished(sweep.out / name, values, source) for name, values in runs.items()}
    outcomes = {name: done for name, done in finished.items() if done}
    _print_kept(outcomes, len(runs))
    outcomes |= execute_runs(source, {name: values for name, values in runs.items() if name not in outcomes}, sweep)
    failed = [name for name in runs if outcomes[name]["status"] == "failed"]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs done; {paths.shown(sweep.out / 'sweep.parquet')}")
    for name in failed:
        trace = sweep.out / name / "traceback.txt"
        print(f"failed: {name}; " + (f"see {paths.shown(trace)}" if trace.is_file() else "its traceback could not be stored"))
    try:
        table = gather(sweep.out, runs, outcomes)
        write_atomic(sweep.out / "sweep.parquet", table.to_parquet(index=False))
        drawn = draw(table, sweep)
    except OSError as error:
        print(f"the table could not be written ({error}): free some space and give the same command again", file=sys.stderr)
        return 1
    return int(bool(failed) or not drawn)


def _print_kept(outcomes: dict[str, dict], runs: int) -> None:
    if outcomes:
        print(f"{len(outcomes)} of {runs} runs are finished and kept")
        older = [name for name, done in outcomes.items() if done["git"]["commit"] != git_state()["commit"]]
        if older:
            print(f"{len(older)} of them ran at another commit, such as {older[0]}: delete their folders to run them again")
