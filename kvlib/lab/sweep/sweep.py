"""Run one notebook for every combination of parameters, in parallel on Dask, and gather what the runs measured:

    python -m kvlib.lab.sweep.sweep notebooks/02_oom_free.ipynb -g MAX_CACHE_TOKENS=800,1300,2000 -g CHUNK_FRAMES=2,4

Every combination, a cell of the grid, has a folder under `results/sweeps/<notebook>/`, such as
`MAX_CACHE_TOKENS=800,CHUNK_FRAMES=2`: the executed notebook, its output as `log.txt`, its reports and figures, and as the
last file `done.json` (parameters, seconds, git state), or `traceback.txt` when it failed. Beside the folders lies
`sweep.parquet`, one row per cell and measurement, and `sweep.png` and `.pdf`.

The same command goes on where it was stopped: finished cells are kept, unless the notebook has changed since. The cells of a
worker that dies run again on another one. Cells run on this machine, one at a time on each GPU; `--scheduler` takes workers
that run already and see the same folders (`dask worker ADDRESS --nthreads 1`), `--slurm` asks for them with the keyword
arguments of `dask_jobqueue.SLURMCluster`:

    n_workers: 8
    cores: 1        # cells at a time
    job_cpu: 8
    memory: 64GB
    walltime: "04:00:00"
    job_extra_directives: ["--gres=gpu:1"]

The exit status is 1 when a cell failed or the figure could not be drawn as asked, 2 for a wrong argument, 130 after ctrl-C.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import io
import itertools
import json
import numbers
import os
import re
import shutil
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
import matplotlib.pyplot as plt
import pandas as pd
import papermill
import psutil
import seaborn as sns
import torch
import yaml
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin, as_completed
from matplotlib.figure import Figure
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from kvlib.lab.figures import plots
from kvlib.lab.report import paths
from kvlib.lab.report.report import git_state, write_atomic
from kvlib.lab.workbook import ERROR_LINES, QUIET

CPU_WORKERS = 4  # at most, without GPUs: every kernel holds a model
RETRIES = 3  # of a cell whose worker died; more often, and the cell itself is taken for the cause
NAME_LENGTH = 200  # bytes of a folder's name; file systems allow 255
COLUMNS = ["status", "seconds", "name", "value", "n", "low", "high", "unit", "verdict", "text"]
RUNNING: set[Path] = set()  # on a worker: the unfinished folders of the cells it runs


class LocalWorkers(LocalCluster):
    """Worker processes on this machine that run one cell at a time, each with a GPU of its own where there are any.

    The cores are shared evenly: a cell computes with cores / workers threads, unless OMP_NUM_THREADS says otherwise.

    Args:
        workers: how many.
        gpus: the ids for CUDA_VISIBLE_DEVICES, one per worker; none where there is no GPU.
    """

    def __init__(self, workers: int, gpus: list[str]):
        self.gpus = gpus
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // workers))
        super().__init__(
            n_workers=0, threads_per_worker=1, dashboard_address=None, memory_limit=0, env={"OMP_NUM_THREADS": threads}
        )  # fmt: skip
        self.scale(workers)

    def new_worker_spec(self) -> dict:
        """The next worker's name and how to start it; names count from 0."""
        ((name, spec),) = super().new_worker_spec().items()
        env = dict(spec["options"]["env"])
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[name]
        return {name: spec | {"options": spec["options"] | {"env": env}}}


class DeafToInterrupts(WorkerPlugin):
    """ctrl-C reaches every process of the terminal; only the one that leads the sweep may act on it."""

    def setup(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-3` is a number too."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def main(arguments: list[str] | None = None) -> int:
    """Run the cells that are not finished, write the table and the figure; return the exit status."""
    options = _parse(arguments)
    source = options.notebook.read_text()  # once: the notebook may be edited while the sweep runs
    grid = [dict(zip(options.grid, values, strict=True)) for values in itertools.product(*options.grid.values())]
    cells = {cell_name(values): values for values in grid}
    options.out.mkdir(parents=True, exist_ok=True)
    with _alone_in(options.out):
        return _sweep(source, cells, options)


def _sweep(source: str, cells: dict[str, dict], options: argparse.Namespace) -> int:
    finished = {name: read_finished(options.out / name, values, source) for name, values in cells.items()}
    outcomes = {name: done for name, done in finished.items() if done}
    _say_what_is_kept(outcomes, len(cells))
    todo = {name: values for name, values in cells.items() if name not in outcomes}
    try:
        outcomes |= run_cells(source, todo, options)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on with the cells that are not finished", file=sys.stderr)
        return 130
    table = gather(options.out, cells, outcomes)
    write_atomic(options.out / "sweep.parquet", table.to_parquet(index=False))
    failed = [name for name in cells if outcomes[name]["status"] == "failed"]
    print(f"{len(cells) - len(failed)} of {len(cells)} cells done; {paths.shown(options.out / 'sweep.parquet')}")
    for name in failed:
        print(f"failed: {name}; see {paths.shown(options.out / name / 'traceback.txt')}")
    drawn = _draw(table, options)
    return int(bool(failed) or not drawn)


def run_cells(source: str, todo: dict[str, dict], options: argparse.Namespace) -> dict[str, dict]:
    """Run the cells {folder name: parameters} on Dask and return {folder name: outcome of `run_cell`}.

    A failing cell is shown and does not stop the others. No unfinished folder stays behind, whatever ends the sweep.
    """
    outcomes, run = {}, uuid.uuid4().hex[:8]
    if not todo:
        return outcomes
    try:
        with _client(options, len(todo)) as client:
            futures = {}
            try:
                for name, values in todo.items():
                    arguments = (source, options.notebook.stem, values, options.out / name, run)
                    future = client.submit(run_cell, *arguments, key=f"{name}-{run}", retries=RETRIES)
                    futures[future] = name
                for future in tqdm(as_completed(futures), total=len(futures), desc="cells", unit="cell"):
                    name = futures[future]
                    outcome = future.result() if future.status == "finished" else _lost(future, options.out / name)
                    if outcome["status"] == "failed":
                        last = outcome["error"].rstrip().splitlines()[-ERROR_LINES:]
                        tqdm.write("\n".join([f"{name} failed", *(f"    {line}" for line in last)]))
                    outcomes[name] = outcome
            except BaseException:
                client.cancel(list(futures), force=True)
                client.run(stop_cells, run, on_error="ignore")
                raise
    finally:  # what a killed worker left
        for part in options.out.glob(f".{run}-*"):
            shutil.rmtree(part, ignore_errors=True)
    return outcomes


def run_cell(source: str, stem: str, values: dict, folder: Path, run: str) -> dict:
    """On a worker: execute the notebook with `values` and leave everything in `folder`, which appears at once, whole.

    Returns the outcome: `status` ("done" or "failed"), `seconds`, `parameters`, `git`, `notebook` (checksum), `error` (or "").
    A notebook that raises or leaves no report has failed. Raises InterruptedError when `stop_cells` ended it.
    """
    os.environ.pop("REPORT_PATH", None)  # it would beat OUTPUT_DIR
    part = folder.with_name(f".{run}-{uuid.uuid4().hex[:8]}")
    part.mkdir()
    RUNNING.add(part)
    git, start = git_state(), time.perf_counter()
    error = _execute(source, part / f"{stem}.ipynb", values | {"OUTPUT_DIR": str(part)})
    seconds = time.perf_counter() - start
    if part not in RUNNING:
        shutil.rmtree(part, ignore_errors=True)
        raise InterruptedError(f"{folder.name} was stopped")
    RUNNING.discard(part)
    if not error and not list(part.glob("*_report.json")):
        error = f"{stem} left no *_report.json in its OUTPUT_DIR: let it write a kvlib.lab.report.report.Report"
    outcome = {
        "status": "failed" if error else "done",
        "seconds": seconds,
        "parameters": values,
        "git": git,
        "notebook": _digest(source),
    }
    _name_the_folder(part, folder)
    if error:
        write_atomic(part / "traceback.txt", error)
    else:
        write_atomic(part / "done.json", json.dumps(outcome, indent=1))
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier, failed run
    part.rename(folder)
    return outcome | {"error": error}


def stop_cells(run: str):
    """On a worker: end the kernel of the cell that it runs for this sweep, and delete the unfinished folder."""
    parts = {part for part in RUNNING if part.name.startswith(f".{run}-")}
    RUNNING.difference_update(parts)
    if parts:  # a worker runs one cell at a time, so its kernel is the cell's
        for process in psutil.Process().children(recursive=True):
            if "ipykernel_launcher" in process.cmdline():
                process.kill()
                process.wait()
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)


def read_finished(folder: Path, values: dict, source: str) -> dict | None:
    """What `done.json` says, or None where the cell did not finish with these parameters and this notebook."""
    try:
        done = json.loads((folder / "done.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return done if done["parameters"] == values and done["notebook"] == _digest(source) else None


def cell_name(values: dict) -> str:
    """A folder's name for a cell: `NAME=value,NAME=value`, with a checksum where a value does not fit into a name as it is."""
    name = ",".join(f"{key}={_value_name(value)}" for key, value in values.items())
    return name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}~{_digest(name)[:8]}"


def gather(out: Path, cells: dict[str, dict], outcomes: dict[str, dict]) -> pd.DataFrame:
    """The table of a sweep: one row per cell and measurement or criterion, one row without a name for a failed cell.

    Columns: one per parameter (as JSON where its values are not all numbers, all texts or all truth values), `status`,
    `seconds`, and name, value, n, low, high, unit as `kvlib.lab.report.report.Report.measure` takes them; a criterion has its id as
    `name` and a `verdict`. What is no number stands in `text`, and its `value` is missing.
    """
    rows = []
    for name, values in cells.items():
        outcome = outcomes[name]
        cell = values | {"status": outcome["status"], "seconds": outcome["seconds"]}
        found = _measured(out / name) if outcome["status"] == "done" else []
        rows += [cell | row for row in found or [{}]]
    parameters = list(next(iter(cells.values())))
    table = pd.DataFrame(rows, columns=[*parameters, *COLUMNS])
    for parameter in parameters:
        kinds = {type(values[parameter]) for values in cells.values()}
        if not (kinds <= {int, float} or kinds in ({bool}, {str})):
            table[parameter] = table[parameter].map(json.dumps)
    kinds = dict.fromkeys(("seconds", "value", "low", "high"), "float64") | {"n": "Int64"}
    return table.astype(kinds | dict.fromkeys(("status", "name", "unit", "verdict", "text"), "str"))


def differing(table: pd.DataFrame) -> list[str]:
    """Names of the measurements whose values are numbers and not the same in all cells, in their order in the table."""
    counts = table.groupby("name", sort=False)["value"].nunique()
    return list(counts.index[counts > 1])


def plot_sweep(table: pd.DataFrame, grid: dict[str, list], measure: str) -> Figure:
    """A measurement over the parameter that varies, with its intervals, or a heat map over the first two that vary.

    Args:
        table: of `gather`.
        grid: {parameter: its values}, at least one with several values. Of more than two that vary, the mean is drawn.
        measure: a name in the table whose values are numbers.
    """
    rows = table[(table["name"] == measure) & table["value"].notna()]
    varied = [name for name, values in grid.items() if len(values) > 1]
    unit = rows["unit"].dropna()
    label = f"{measure} ({unit.iloc[0]})" if len(unit) else measure
    if len(varied) == 1:
        return _plot_line(rows, varied[0], label)
    fig, axis = plots._figure(plots.TWO_COLUMNS, 3.0)
    values = rows.pivot_table(index=varied[0], columns=varied[1], values="value", sort=False)
    values = values.reindex(index=table[varied[0]].unique(), columns=table[varied[1]].unique())  # cells that failed stay empty
    with plt.rc_context(plots.STYLE):
        look = dict(annot=True, fmt=".4g", cmap="cividis", annot_kws={"size": 7}, cbar_kws={"label": label})
        sns.heatmap(values, ax=axis, **look)
        axis.set(xlabel=varied[1], ylabel=varied[0])
        if varied[2:]:
            axis.set_title(f"mean over {', '.join(varied[2:])}")
    return fig


def _plot_line(rows: pd.DataFrame, parameter: str, label: str) -> Figure:
    fig, axis = plots._figure(plots.ONE_COLUMN, 2.4)
    if pd.api.types.is_numeric_dtype(rows[parameter]) and not pd.api.types.is_bool_dtype(rows[parameter]):
        rows = rows.sort_values(parameter)
    else:
        rows = rows.astype({parameter: "str"})
    bars = [(rows["value"] - rows["low"]).clip(lower=0), (rows["high"] - rows["value"]).clip(lower=0)]  # NaN: none drawn
    with plt.rc_context(plots.STYLE):
        axis.errorbar(rows[parameter], rows["value"], yerr=bars, capsize=2, elinewidth=0.7, **plots.SERIES[0])
        axis.set(xlabel=parameter, ylabel=label)
    return fig


def _draw(table: pd.DataFrame, options: argparse.Namespace) -> bool:
    """Write sweep.png and sweep.pdf where there is something to draw; False when what was asked for cannot be drawn."""
    for kind in ("png", "pdf"):  # an old figure must not stand for this table
        (options.out / f"sweep.{kind}").unlink(missing_ok=True)
    choice, numeric = differing(table), list(table.loc[table["value"].notna(), "name"].unique())
    if options.measure and options.measure not in numeric:
        print(f"no figure: no measurement {options.measure!r} with numbers; choose from {', '.join(numeric) or 'none'}")
        return False
    measure = options.measure or next(iter(choice), None)
    if not measure or all(len(values) == 1 for values in options.grid.values()):
        print("no figure: no parameter or no measured number differs between the cells")
        return True
    fig = plot_sweep(table, options.grid, measure)
    for kind in ("png", "pdf"):
        buffer = io.BytesIO()
        with plt.rc_context(plots.STYLE):
            fig.savefig(buffer, format=kind, dpi=300)
        write_atomic(options.out / f"sweep.{kind}", buffer.getvalue())
    print(f"{measure}: {paths.shown(options.out / 'sweep.png')}")
    return True


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Inside, no other sweep on this machine writes to `out`; raises SystemExit when one does already."""
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemExit(f"another sweep is writing to {paths.shown(out)}: wait for it, or give another --out") from error
        yield
    finally:
        os.close(folder)


@contextmanager
def _client(options: argparse.Namespace, cells: int) -> Iterator[Client]:
    """A client of the cluster that was asked for; at the end it is closed, with the cluster if that was started here."""
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": RETRIES}))
        if options.scheduler:
            client = stack.enter_context(_connect(options.scheduler))
        elif options.slurm:
            from dask_jobqueue import SLURMCluster

            client = stack.enter_context(Client(stack.enter_context(SLURMCluster(**options.slurm))))
        else:
            gpus = visible_gpus()
            workers = min(cells, len(gpus) or min(CPU_WORKERS, CPU_COUNT))
            client = stack.enter_context(Client(stack.enter_context(LocalWorkers(workers, gpus))))
            client.register_plugin(DeafToInterrupts())
        yield client


def _connect(address: str) -> Client:
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise SystemExit(f"no Dask scheduler at {address}: give --scheduler the address that it printed ({error})") from error
    wide = [worker for worker, threads in client.nthreads().items() if threads > 1]
    if wide:
        client.close()
        raise SystemExit(f"worker {wide[0]} would run several cells at a time on its GPU: start workers with --nthreads 1")
    return client


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, for CUDA_VISIBLE_DEVICES."""
    given, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return (given.split(",") if given else [str(i) for i in range(count)])[:count]


def _execute(source: str, target: Path, parameters: dict) -> str:
    """Execute a notebook's text into `target`, with its output in `log.txt` beside it; return the traceback or ""."""
    target.write_text(source)
    error = ""
    try:
        with open(target.with_name("log.txt"), "w") as log:
            papermill.execute_notebook(
                target, target, parameters, kernel_name="python3", progress_bar=False, extra_arguments=QUIET,
                stdout_file=log, stderr_file=log,
            )  # fmt: skip
    except PapermillExecutionError as raised:
        error = str(raised).lstrip()
    except Exception:  # a dead kernel or a broken notebook must not stop the other cells
        error = traceback.format_exc()
    return error


def _name_the_folder(part: Path, folder: Path):
    """Let the executed notebook name the folder in which it will lie."""
    for path in part.glob("*.ipynb"):
        path.write_text(path.read_text().replace(part.name, folder.name))


def _lost(future, folder: Path) -> dict:
    """The outcome of a cell that came back with nothing, such as one that killed every worker it was tried on."""
    error = "".join(traceback.format_exception(future.exception()))
    shutil.rmtree(folder, ignore_errors=True)
    write_atomic(folder / "traceback.txt", error)
    return {"status": "failed", "seconds": None, "error": error}


def _measured(folder: Path) -> list[dict]:
    """Rows name, value, n, low, high, unit, verdict, text of the reports in a cell's folder."""
    rows = []
    for path in sorted(folder.glob("*_report.json")):
        report = json.loads(path.read_text())
        for found in report["measurements"]:
            low, high = found["interval"] or (None, None)
            row = {"name": found["name"], "n": found["n"], "low": low, "high": high, "unit": found["unit"]}
            rows.append(row | _value(found["value"]))
        for found in report["criteria"]:
            rows.append({"name": found["id"], "verdict": found["verdict"]} | _value(found["measured"]))
    return rows


def _value(value) -> dict:
    if value is None or isinstance(value, numbers.Number):
        return {"value": value}
    return {"text": value if isinstance(value, str) else json.dumps(value)}


def _value_name(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    name = re.sub(r"[^\w.,+\[\]-]+", "_", text, flags=re.ASCII)[:60]
    looks_like_text = text[:1].isalpha() and text not in ("true", "false", "null")
    if name == text and looks_like_text == isinstance(value, str):
        return name
    return f"{name}~{_digest(json.dumps(value))[:8]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _say_what_is_kept(outcomes: dict[str, dict], cells: int):
    if outcomes:
        print(f"{len(outcomes)} of {cells} cells are finished and kept")
        older = [name for name, done in outcomes.items() if done["git"]["commit"] != git_state()["commit"]]
        if older:
            print(f"{len(older)} of them ran at another commit, such as {older[0]}: delete their folders to run them again")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kvlib.lab.sweep.sweep", description="Run a notebook over a grid of parameters."
    )
    parser.add_argument("notebook", metavar="NOTEBOOK", type=paths.resolve, help="the notebook's path")
    parser.add_argument(
        "-g", action="append", default=[], metavar="NAME=VALUE,VALUE", dest="grid", help="values of one parameter, as YAML"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the results (default: results/sweeps/<notebook>)")
    parser.add_argument("--measure", metavar="NAME", help="measurement to draw (default: the first that differs between cells)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask cluster, such as tcp://host:8786")
    where.add_argument("--slurm", metavar="CONFIG.yml", help="keyword arguments of dask_jobqueue.SLURMCluster")
    options = parser.parse_args(arguments)
    if not options.notebook.is_file():
        parser.error(f"no notebook at {options.notebook}")
    known = papermill.inspect_notebook(options.notebook).keys()
    try:
        options.grid = _read_grid(options.grid, known)
        options.slurm = options.slurm and _read_slurm(options.slurm)
    except ValueError as error:
        parser.error(str(error))
    name = options.notebook.stem
    options.out = (Path.cwd() / Path(options.out).expanduser() if options.out else paths.RESULTS / "sweeps" / name).resolve()
    return options


def _read_grid(given: list[str], known) -> dict[str, list]:
    """{parameter: values} of the -g arguments; raises ValueError for what cannot be swept."""
    if not given:
        raise ValueError("the grid is empty: give at least one -g NAME=VALUE,VALUE")
    if "OUTPUT_DIR" not in known:
        raise ValueError("the notebook has no parameter OUTPUT_DIR: its parameters cell needs one, the folder of its report")
    grid = {}
    for argument in given:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise ValueError(f"-g {argument}: write it as NAME=VALUE,VALUE")
        if name == "OUTPUT_DIR" or name in COLUMNS:
            raise ValueError(f"-g {argument}: {name} is set by the sweep itself; choose another parameter")
        if name not in known:
            raise ValueError(f"the notebook has no parameter {name}: choose from {', '.join(sorted(known - {'OUTPUT_DIR'}))}")
        if name in grid:
            raise ValueError(f"-g {argument}: {name} is given twice; list all its values in one -g")
        grid[name] = _read_values(argument, text)
    return grid


def _read_values(argument: str, text: str) -> list:
    try:
        values = yaml.load(f"[{text}]", _Loader)
        json.dumps(values, allow_nan=False)
    except (yaml.YAMLError, TypeError, ValueError) as error:  # the last two: a date, a set, .nan
        reason = " ".join(str(error).split())
        raise ValueError(f"-g {argument}: not a list of YAML values, put odd texts in quotes ({reason})") from error
    if not values:
        raise ValueError(f"-g {argument}: no values; the grid would be empty")
    names = [_value_name(value) for value in values]
    if len(set(names)) < len(names):
        raise ValueError(f"-g {argument}: a value is given twice")
    return values


def _read_slurm(path: str) -> dict:
    """The keyword arguments in a YAML file; raises ValueError for what cannot run a sweep."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise ValueError("--slurm needs the package dask-jobqueue: .venv/bin/pip install -c constraints.txt -e '.[slurm]'")
    try:
        config = yaml.safe_load(Path(path).expanduser().read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--slurm {path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict) or not config.get("n_workers"):
        raise ValueError(f"--slurm {path}: no n_workers; say how many workers to start")
    if config.get("cores") != config.get("processes", 1):
        raise ValueError(
            f"--slurm {path}: cores must equal processes (1 if not given), one cell at a time each; job_cpu reserves more"
        )
    return config


if __name__ == "__main__":
    from kvlib.lab.sweep.sweep import main  # workers know this module by that name, not as __main__

    sys.exit(main())
