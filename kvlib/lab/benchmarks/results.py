"""What a run of a benchmark leaves in its folder: one table of all answers, a LaTeX table of the scores, figures."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pandas as pd

from kvlib.lab.benchmarks.scores import by_mode, by_task, judged, latex, left_out
from kvlib.lab.benchmarks.streaming import ANSWERED
from kvlib.lab.figures.benchmark_plots import plot_modes, plot_tasks
from kvlib.lab.figures.style import save_figure
from kvlib.lab.report import paths
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.statistics import with_interval

SHOWN_REASONS, DIGITS = 10, 12  # lines; of a hash in a caption
PROTOCOL = (
    "model", "family", "dtype", "device", "pixels", "fps", "chunk_frames", "policy", "budget", "positions", "recall",
    "drop_static", "answers", "context", "prompt_sha256", "commit",
)  # fmt: skip


def write_results(table: pd.DataFrame, scorer: ModuleType, out: Path, name: str) -> None:
    """Write `<name>.parquet` (a row per question, with `right`), `<name>.tex`, and the figures `<name>_tasks` and, where there
    are both modes, `<name>_modes`, to `out`."""
    rows = judged(table, scorer)
    tasks, modes = by_task(rows), by_mode(rows, scorer)
    write_atomic(out / f"{name}.parquet", rows.to_parquet(index=False))
    write_atomic(out / f"{name}.tex", latex(tasks, modes, caption(rows, name)))
    known, method = protocol(rows), method_name(rows)
    if len(modes):
        save_figure(plot_tasks(tasks.assign(method=method)), f"{name}_tasks", out, known)
    if {"real-time", "backward"} <= set(modes["mode"]):
        save_figure(plot_modes(modes.assign(method=method)), f"{name}_modes", out, known)


def show_results(table: pd.DataFrame, scorer: ModuleType, out: Path, name: str) -> None:
    """Print the scores, and how many questions have no answer and why."""
    rows = judged(table, scorer)
    tasks, modes = by_task(rows), by_mode(rows, scorer)
    for mode in modes.itertuples():
        for task in tasks[tasks["mode"] == mode.mode].itertuples():
            print(_line(f"  {task.task}", task.share, task))
        print(_line(mode.mode, mode.score, mode))
    reasons = left_out(table)
    for reason in reasons.head(SHOWN_REASONS).itertuples():
        shown = f": {reason.problem}" if reason.problem else ""
        print(f"{reason.questions:,} questions of {reason.videos:,} videos, {reason.status}{shown}")
    if len(reasons) > SHOWN_REASONS:
        print(f"and {len(reasons) - SHOWN_REASONS} more reasons: see the column `problem` of the table")
    print(
        f"{(table['status'] == ANSWERED).sum():,} of {len(table):,} questions answered; {paths.shown(out / f'{name}.parquet')}"
    )


def read_tables(files: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Tables of `write_results` of one benchmark, by the names of their folders.

    Raises FileNotFoundError for a missing one, ValueError for another file, for two benchmarks and for two folders of one name.
    """
    tables: dict[str, pd.DataFrame] = {}
    for path in map(paths.resolve, files):
        if not path.is_file():
            raise FileNotFoundError(f"no table at {path}: give the .parquet that `kvlib benchmark` wrote")
        try:
            rows = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no table ({error}): give the .parquet that `kvlib benchmark` wrote") from error
        if not {"benchmark", "right", *PROTOCOL} <= set(rows.columns):
            raise ValueError(f"{path} is another table: give the .parquet that `kvlib benchmark` wrote")
        if path.parent.name in tables:
            raise ValueError(f"{path}: there is a table in another folder {path.parent.name} too, rename one of them")
        tables[path.parent.name] = rows
    benchmarks = {name for rows in tables.values() for name in rows["benchmark"]}
    if len(benchmarks) > 1:
        raise ValueError(f"tables of {', '.join(sorted(benchmarks))}: give those of one benchmark")
    return tables


def compared(tables: dict[str, pd.DataFrame], scorer: ModuleType, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Several runs together, each a `method`: the rows of `judged`, the tables of `by_task` and of `by_mode`."""
    rows = {name: judged(table, scorer) for name, table in tables.items()}
    tasks = [by_task(found).assign(method=name) for name, found in rows.items()]
    modes = [by_mode(found, scorer, seed).assign(method=name) for name, found in rows.items()]
    parts = ([found.assign(method=name) for name, found in rows.items()], tasks, modes)
    return tuple(pd.concat(part, ignore_index=True) for part in parts)


def readable(scores: pd.DataFrame, by: str) -> pd.DataFrame:
    """`by_task` or `by_mode` of several methods for display: a row per value of the column `by`, a column per method."""
    value = "share" if "share" in scores else "score"
    rows = scores.to_dict("records")
    texts = [f"{with_interval(row[value], row['low'], row['high'])}, n = {row['n']}" for row in rows]
    table = scores.assign(text=texts).pivot(index=by, columns="method", values="text")
    return table.reindex(index=scores[by].unique(), columns=scores["method"].unique()).rename_axis(index=None, columns=None)


def protocol(rows: pd.DataFrame) -> dict[str, str]:
    """What the answers were made with: the values of each column of the protocol, joined where there are several."""
    answered = rows[rows["status"] == ANSWERED]
    return {column: ", ".join(map(str, answered[column].dropna().unique())) for column in PROTOCOL}


def protocol_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`protocol` for display, a row for each column of the table."""
    return pd.DataFrame(protocol(rows).items(), columns=["column", "value"]).set_index("column").rename_axis(index=None)


def caption(rows: pd.DataFrame, name: str) -> str:
    """The caption of the LaTeX table: the protocol, and what was evicted."""
    known, answered = protocol(rows), rows[rows["status"] == ANSWERED]
    known |= {
        "model": Path(known["model"]).name,
        "prompt_sha256": known["prompt_sha256"][:DIGITS],
        "commit": known["commit"][:DIGITS],
    }
    said = "; ".join(f"{column} {value}" for column, value in known.items() if value)
    evicted = (answered["evictions"] > 0).mean() if len(answered) else 0.0
    return f"{name}, every video streamed once. {said}. {evicted:.0%} of the answers came after an eviction."


def method_name(rows: pd.DataFrame) -> str:
    """What a run is called in a figure, such as "sink_window, remap, recall 2"."""
    first = rows.iloc[0]
    recall = "" if first["recall"] == "0" else f", recall {first['recall']}"
    return f"{first['policy']}, {first['positions']}{recall}"


def _line(name: str, share: float, row) -> str:
    if not row.n:
        return f"{name:<34} no answer, left out {row.left_out:,}"
    interval = "" if pd.isna(row.low) else f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
    return f"{name:<34} {100 * share:5.1f}% {interval:<15} n = {row.n:,}, left out {row.left_out:,}"
