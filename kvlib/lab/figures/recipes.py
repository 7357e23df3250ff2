"""The workbook's figures by name: each is stored as data first and drawn from what was stored, so that it can be drawn again.

    python -m kvlib.lab.figures.recipes [FOLDER ...]    # no model, no notebook; figures/ and figures/full_size/ by default

Beside the figures `data/` holds, for each, its tables as CSV, and its caption, plain numbers and provenance as JSON.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from kvlib.lab.figures import labels as chinese
from kvlib.lab.figures import plots
from kvlib.lab.report import paths
from kvlib.lab.report.report import Report, write_atomic

MISSING = "#N/A"  # in the CSV files; an empty text stays one


class Recipe(NamedTuple):
    """How a figure is drawn, of tables and numbers by the names of the function's parameters, and what it shows."""

    draw: Callable[..., Figure]
    caption: str


RECIPES = {
    "01_sinks": Recipe(
        plots.plot_sinks,
        "Left: the detected sink, the whole first chunk, for every chunk size and frame height, beside a constant of 128 "
        "tokens. Right: what each chunk added to the cache.",
    ),
    "02_memory": Recipe(
        plots.plot_memory,
        "Cache length (left) and bytes of keys and values (right) while a video is watched, without eviction and with a sink "
        "and a window. Marks are evictions and the end of memory; dotted lines are the budget and the limit.",
    ),
    "03_lines": Recipe(
        plots.plot_line_timeline,
        "Every subtitle over the time that it was on screen, by whether some answer holds it, and the moments of the questions "
        "with right and wrong answers.",
    ),
    "03_ttft": Recipe(plots.plot_ttft, "Distribution of the time from a question to the first token of its answer."),
    "04_accuracy_over_length": Recipe(
        plots.plot_accuracy_over_length,
        "Share of exact answers for the title (in the sink) and for the current line (in the window) over stream length, with "
        "the position gap kept and with positions remapped. Bars are 95% Wilson intervals.",
    ),
    "04_attention": Recipe(
        plots.plot_attention,
        "Where the tokens of the question for the title look after eviction, by layer: shares of attention, mean over heads.",
    ),
    "04_strategies": Recipe(
        plots.plot_strategies,
        "Exact answers now and backward of strategies without training, with 95% Wilson intervals, and their time per chunk.",
    ),
    "05_retention": Recipe(
        plots.plot_retention,
        "Share of exact answers about what was on screen so many chunks ago, at equal budget of tokens. Bars are 95% Wilson "
        "intervals.",
    ),
    "05_budgets": Recipe(plots.plot_budgets, "Share of exact answers over the budget. Bars are 95% Wilson intervals."),
    "05_timeline": Recipe(
        plots.plot_timeline,
        "Which chunks (upward) are in the cache at each moment of a stream (to the right). The lowest row is the sink.",
    ),
    "05_drift": Recipe(
        plots.plot_drift,
        "Relative error of bf16 keys over the number of turns: turning the last result again, or always the kept original.",
    ),
}


def make(name: str, report: Report, **data) -> Figure:
    """Store the `data` of figure `name`, DataFrames and plain numbers, draw it of what was stored, and write it.

    Files go where the report's figures go. Raises ValueError for a name without a recipe.
    """
    if name not in RECIPES:
        raise ValueError(
            f"no recipe for a figure {name!r}: add one to kvlib.lab.figures.recipes.RECIPES ({', '.join(RECIPES)})"
        )
    folder = paths.figure_dir(report.output_dir)
    store(name, folder, report.provenance(), data)
    return redraw(name, folder)


def store(name: str, folder: Path, provenance: dict, data: dict) -> None:
    """Write the data of a figure to `folder`/data."""
    tables = {key: value for key, value in data.items() if isinstance(value, pd.DataFrame)}
    for key, table in tables.items():
        named = not isinstance(table.index, pd.RangeIndex)
        content = table.to_csv(index=named, index_label="name" if named else None, na_rep=MISSING)
        write_atomic(_table_path(name, folder, key), content)
    known = {
        "caption": RECIPES[name].caption,
        "numbers": {key: _plain(value) for key, value in data.items() if key not in tables},
        "tables": list(tables),
        "provenance": provenance,
    }
    write_atomic(_record_path(name, folder), json.dumps(known, indent=1, sort_keys=True, default=str) + "\n")


def redraw(name: str, folder: Path) -> Figure:
    """Draw figure `name` of the data in `folder`/data and write it to `folder`; with `FIGURE_LANG=zh` in the environment in
    Chinese, as `<name>_zh`.

    Raises FileNotFoundError when its data are not there, ValueError for a language that the figures do not speak, and
    RuntimeError where no Chinese font is installed.
    """
    language = os.environ.get("FIGURE_LANG") or "en"
    if language not in ("en", "zh"):
        raise ValueError(f"FIGURE_LANG={language!r}: the figures speak 'en' and 'zh'")
    record = _record_path(name, folder)
    if not record.is_file():
        raise FileNotFoundError(f"no data of figure {name!r} at {record}: run its notebook, which stores them")
    known = json.loads(record.read_text())
    tables = {key: _read(_table_path(name, folder, key)) for key in known["tables"]}
    figure = RECIPES[name].draw(**tables, **known["numbers"])
    if language == "zh":
        chinese.translate(figure)
        name += "_zh"
    plots.save_figure(figure, name, folder, known["provenance"])
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kvlib.lab.figures.recipes", description="Draw the figures again from stored data."
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[paths.FIGURES, paths.FIGURES / "full_size"])
    for folder in parser.parse_args(arguments).folders:
        names = sorted(path.stem for path in (folder / "data").glob("*.json"))
        if not names:
            parser.error(f"no stored figures in {folder / 'data'}: run the notebooks, or give a folder that has them")
        for name in names:
            redraw(name, folder)
            print(paths.shown(folder / f"{name}.png"))


def _record_path(name: str, folder: Path) -> Path:
    return folder / "data" / f"{name}.json"


def _table_path(name: str, folder: Path, key: str) -> Path:
    return folder / "data" / f"{name}_{key}.csv"


def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, keep_default_na=False, na_values=[MISSING])
    return table.set_index("name") if table.columns[0] == "name" else table


def _plain(value):
    """A number as JSON knows it; not-a-number is stored as none given."""
    value = value.item() if hasattr(value, "item") else value
    return None if value != value else value


if __name__ == "__main__":
    main()
