"""What the runs of a sweep measured: one table, and one figure of it."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kvlib.lab.figures import style
from kvlib.lab.figures.labels import label, literal
from kvlib.lab.report import paths
from kvlib.lab.sweep.grid import COLUMNS, Sweep
from kvlib.lab.sweep.measured import read_measured


def gather(out: Path, runs: dict[str, dict], outcomes: dict[str, dict]) -> pd.DataFrame:
    """The table of a sweep: one row per run and measurement or criterion, one row without a name for a failed run.

    runs: {folder's name in `out`: parameters}. outcomes: {folder's name: outcome of `kvlib.lab.sweep.runs.execute_run`}.

    Columns: one per parameter (as JSON where its values are not all numbers, all texts or all truth values), `status`,
    `seconds`, and name, value, n, low, high, unit as `kvlib.lab.report.report.Report.measure` takes them; a criterion has
    its id as `name` and a `verdict`. A result that is not a number is in `text`, and its `value` is missing.
    """
    rows = []
    for name, values in runs.items():
        outcome = outcomes[name]
        run = values | {"status": outcome["status"], "seconds": outcome["seconds"]}
        found = read_measured(out / name) if outcome["status"] == "done" else []
        rows += [run | row for row in found or [{}]]
    parameters = list(next(iter(runs.values())))
    table = pd.DataFrame(rows, columns=[*parameters, *COLUMNS])
    for parameter in parameters:
        kinds = {type(values[parameter]) for values in runs.values()}
        if not (kinds <= {int, float} or kinds in ({bool}, {str})):
            table[parameter] = table[parameter].map(json.dumps)
    kinds = dict.fromkeys(("seconds", "value", "low", "high"), "float64") | {"n": "Int64"}
    return table.astype(kinds | dict.fromkeys(("status", "name", "unit", "verdict", "text"), "str"))


def differing(table: pd.DataFrame) -> list[str]:
    """Names of the measurements whose values are numbers and not the same in all runs, in their order in the table."""
    counts = table.groupby("name", sort=False)["value"].nunique()
    return list(counts.index[counts > 1])


def plot_sweep(table: pd.DataFrame, grid: dict[str, list], measure: str) -> Figure:
    """A measurement over the parameter that varies, with its intervals, or a heat map over the first two that vary.

    table: of `gather`. grid: {parameter: its values}, at least one with several values. measure: a name in the table whose
    values are numbers. Where more than two parameters vary, the mean over the others is drawn.
    """
    rows = table[(table["name"] == measure) & table["value"].notna()]
    varied = [name for name, values in grid.items() if len(values) > 1]
    unit = rows["unit"].dropna()
    name = literal(f"{measure} ({unit.iloc[0]})" if len(unit) else measure)
    if len(varied) == 1:
        return _plot_line(rows, varied[0], name)
    fig, axis = style.new_figure(style.TWO_COLUMNS, 3.0)
    values = rows.pivot_table(index=varied[0], columns=varied[1], values="value", sort=False)
    values = values.reindex(index=table[varied[0]].unique(), columns=table[varied[1]].unique())  # failed runs stay empty
    ticks = dict(xticklabels=list(map(literal, values.columns)), yticklabels=list(map(literal, values.index)))
    with plt.rc_context(style.STYLE):
        options = dict(annot=True, fmt=".4g", cmap="cividis", cbar_kws={"label": name})
        sns.heatmap(values, ax=axis, **options | ticks)
        axis.set(xlabel=literal(varied[1]), ylabel=literal(varied[0]))
        if varied[2:]:
            axis.set_title(label(f"mean over {', '.join(varied[2:])}"))
    return fig


def draw(table: pd.DataFrame, sweep: Sweep) -> bool:
    """Write sweep.png and sweep.pdf where a number differs; False when the measurement that was asked for has no numbers."""
    for kind in ("png", "pdf"):  # a figure of an earlier table must not stay
        (sweep.out / f"sweep.{kind}").unlink(missing_ok=True)
    choice, numeric = differing(table), list(table.loc[table["value"].notna(), "name"].unique())
    if sweep.measure and sweep.measure not in numeric:
        print(f"no figure: no measurement {sweep.measure!r} with numbers; choose from {', '.join(numeric) or 'none'}")
        return False
    measure = sweep.measure or next(iter(choice), None)
    if not measure or all(len(values) == 1 for values in sweep.grid.values()):
        print("no figure: no parameter or no measured number differs between the runs")
        return True
    fig = plot_sweep(table, sweep.grid, measure)
    style.save_figure(fig, "sweep", sweep.out, {"grid": sweep.grid})
    print(f"{measure}: {paths.shown(sweep.out / 'sweep.png')}")
    return True


def _plot_line(rows: pd.DataFrame, parameter: str, name: str) -> Figure:
    fig, axis = style.new_figure(style.ONE_COLUMN, 2.4)
    if pd.api.types.is_numeric_dtype(rows[parameter]) and not pd.api.types.is_bool_dtype(rows[parameter]):
        rows = rows.sort_values(parameter)
    else:
        rows = rows.assign(**{parameter: rows[parameter].map(literal)})
    bars = [(rows["value"] - rows["low"]).clip(lower=0), (rows["high"] - rows["value"]).clip(lower=0)]  # NaN: none drawn
    with plt.rc_context(style.STYLE):
        axis.errorbar(rows[parameter], rows["value"], yerr=bars, capsize=2, elinewidth=0.7, **style.looks_of([name])[name])
        axis.set(xlabel=literal(parameter), ylabel=name)
    return fig
