"""The workbook's figures by name. Each is stored as data first and drawn from the stored data, so that it can be drawn again.

A figure lies in a folder as `<name>.pdf` and `<name>.png`. Its folder `data/` holds the tables as CSV, the caption, plain
numbers and provenance as JSON, and a LaTeX table with the caption. No model and no notebook is needed to draw it again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from kvlib.lab.figures import answer_plots, benchmark_plots, dropping_plots, memory_plots, position_plots, recall_plots, tables
from kvlib.lab.figures.fonts import chinese_font
from kvlib.lab.figures.labels import file_name, language
from kvlib.lab.figures.style import save_figure
from kvlib.lab.report import paths
from kvlib.lab.report.files import as_json, write_atomic
from kvlib.lab.report.report import Report
from kvlib.lab.report.statistics import FEWEST

FEW_STREAMS = f"With fewer than {FEWEST} streams there are no intervals."
FEW_VIDEOS = f"With fewer than {FEWEST} videos there are no intervals."
MISSING = "#N/A"  # in the CSV files; an empty text stays one


class Recipe(NamedTuple):
    """The functions that draw a figure and make its table for LaTeX, both of the same parameters, and the figure's caption."""

    draw: Callable[..., Figure]
    table: Callable[..., pd.DataFrame]
    caption: str


RECIPES = {
    "01_sinks": Recipe(
        memory_plots.plot_sinks,
        tables.sinks,
        "Left: the detected sink, the whole first chunk, for every chunk size and frame height, beside a constant of 128 "
        "tokens. Right: what each chunk added to the cache. One video; the numbers are exact counts.",
    ),
    "01_kept": Recipe(
        dropping_plots.plot_kept,
        tables.kept,
        "Above: the temporal grids of one chunk, with the number of merged patches that are kept of each. What is dropped, "
        "because it stands still, is faded to white. Below: the tokens that are kept for each second of video over the "
        "threshold drop_static, for every chunk size. One video; the numbers are exact counts.",
    ),
    "02_memory": Recipe(
        memory_plots.plot_memory,
        tables.memory,
        "Cache length (left) and bytes of keys and values (right) while a video is watched, without eviction and with a sink "
        "and a window. The band at the bottom marks the chunks with an eviction, the cross the end of memory. Thin lines are "
        "the budget (dotted) and the limit (dash-dotted). One run of each; the numbers are exact counts.",
    ),
    "03_lines": Recipe(
        answer_plots.plot_line_timeline,
        tables.lines,
        "The video in rows. Above: the questions with right and wrong answers. Middle: every subtitle, with its number in the "
        "table, over the time that it was on screen. Below: what was read, over the time at which it was read. n is given in "
        "brackets; the intervals are 95% Wilson intervals.",
    ),
    "03_ttft": Recipe(
        answer_plots.plot_ttft,
        tables.ttft,
        "Distribution of the time from a question to the first token of its answer. The band is the 95% interval of the median "
        "(order statistics).",
    ),
    "04_accuracy_over_length": Recipe(
        answer_plots.plot_accuracy_over_length,
        tables.over_length,
        "Share of exact answers for the title (in the sink) and for the current line (in the window) over stream length, with "
        "the position gap kept and with positions remapped. Bars are 95% Wilson intervals; n is the number of streams. Nothing "
        f"was measured between the lengths. {FEW_STREAMS}",
    ),
    "04_attention": Recipe(
        position_plots.plot_attention,
        tables.attention,
        "Attention of the question for the title after eviction, by layer: the share of each region of the cache, mean over "
        "heads. The brackets in the table give the least and the largest share of a head.",
    ),
    "04_strategies": Recipe(
        answer_plots.plot_strategies,
        tables.strategies,
        "Exact answers now and backward of strategies without training, with 95% intervals, and their mean time per chunk. n "
        f"is the number of answers, in the table now / backward. {FEW_STREAMS}",
    ),
    "05_retention": Recipe(
        answer_plots.plot_retention,
        tables.retention,
        "Share of exact answers about what was on screen so many chunks ago, at equal budget of tokens. Bars are 95% Wilson "
        f"intervals; n is the number of streams. Nothing was measured between the ages. {FEW_STREAMS}",
    ),
    "05_budgets": Recipe(
        answer_plots.plot_budgets,
        tables.budgets,
        "Share of exact answers over the budget. Bars are 95% intervals; n is the number of answers. Nothing was measured "
        f"between the budgets. {FEW_STREAMS}",
    ),
    "05_timeline": Recipe(
        memory_plots.plot_timeline,
        tables.timeline,
        "Which chunks (upward) are in the cache at each moment of a stream (to the right). The lowest row is the sink. One "
        "stream; the numbers are exact counts.",
    ),
    "05_drift": Recipe(
        position_plots.plot_drift,
        tables.drift,
        "Relative error of bf16 keys over the number of evictions. Each eviction re-rotates the last result (chain) or the "
        "kept original. One norm over n = 64 random keys for each point; it has no interval.",
    ),
    "06_recall": Recipe(
        recall_plots.plot_recall,
        tables.recall,
        "Share of exact answers about cards that were shown so many chunks ago, without and with recall, at equal device "
        "memory. Bars are 95% intervals over streams; n is the number of streams, each with one card at each age. "
        f"{FEW_STREAMS}",
    ),
    "06_ranking": Recipe(
        recall_plots.plot_ranking,
        tables.ranking,
        "Left: the attention of a question to an evicted chunk, as the index estimates it, over an even share: of the right "
        "card, and of the chunk ranked first when no evicted chunk holds the answer. Right: what is ranked first when an "
        "evicted card is asked for. n is the number of questions. In the table, the share is that of the questions at or above "
        "the least attention for automatic recall, or of what was ranked first, with 95% Wilson intervals.",
    ),
    "07_modes": Recipe(
        benchmark_plots.plot_modes,
        tables.modes,
        "Share of right answers about the present (real-time) and about the past (backward), each the mean over tasks, with "
        "95% bootstrap intervals over videos, or Wilson intervals of one question per video where all draws are the same. n is "
        f"the number of answers. Every video is streamed once. {FEW_VIDEOS}",
    ),
    "07_tasks": Recipe(
        benchmark_plots.plot_tasks,
        tables.tasks,
        "Share of right answers to each task of a public benchmark, with 95% Wilson intervals. n is the number of answers. "
        f"Every video is streamed once. {FEW_VIDEOS}",
    ),
}


def make(name: str, report: Report, **data) -> Figure:
    """Store the `data` of figure `name`, DataFrames and plain numbers, draw it from the stored data, and write it.

    Files go where the report's figures go. Raises ValueError for a name without a recipe, and what `redraw` raises.
    """
    if name not in RECIPES:
        raise ValueError(
            f"no recipe for a figure {name!r}: add one to kvlib.lab.figures.recipes.RECIPES ({', '.join(RECIPES)})"
        )
    folder = paths.figure_dir(report.output_dir)
    store(name, folder, report.provenance(), data)
    return _write_figure(name, folder)


def store(name: str, folder: Path, provenance: dict, data: dict) -> None:
    """Write the data of a figure to `folder`/data, with its caption, and with the caption and its numbers as a table for LaTeX.

    Numbers that are NaN or infinite are stored as null.
    """
    frames = {key: value for key, value in data.items() if isinstance(value, pd.DataFrame)}
    for key, table in frames.items():
        named = not isinstance(table.index, pd.RangeIndex)
        content = table.to_csv(index=named, index_label="name" if named else None, na_rep=MISSING)
        write_atomic(_table_path(name, folder, key), content)
    numbers = {key: as_json(value) for key, value in data.items() if key not in frames}
    _write_record(name, folder, {"numbers": numbers, "tables": list(frames), "provenance": provenance})


def draw(name: str, folder: Path) -> Figure:
    """Draw figure `name` from the data in `folder`/data, in the language of `kvlib.lab.figures.labels.language`.

    Raises FileNotFoundError when its data are not there.
    """
    return RECIPES[name].draw(**_read_data(name, folder, _read_record(name, folder)))


def redraw(name: str, folder: Path) -> Figure:
    """Draw figure `name` as `draw` does and write it to `folder`; a Chinese figure is called `<name>_zh`.

    The caption and the table for LaTeX, which are English, are written again as `store` writes them.

    Raises FileNotFoundError when its data are not there, ValueError for an unknown `FIGURE_LANG`, and RuntimeError when
    a Chinese figure is asked for and no Chinese font is installed.
    """
    _write_record(name, folder, _read_record(name, folder))
    return _write_figure(name, folder)


def redraw_all(folders: Iterable[Path]) -> list[Path]:
    """Redraw every figure that has data in the `folders`; return the paths of the PNG files.

    Raises FileNotFoundError, before anything is drawn, for a folder without stored figures, and what `redraw` raises.
    """
    found = []
    for folder in folders:
        names = sorted(path.stem for path in (folder / "data").glob("*.json"))
        if not names:
            raise FileNotFoundError(f"no stored figures in {folder / 'data'}: run the notebooks or give another folder")
        found += [(name, folder) for name in names]
    for name, folder in found:
        redraw(name, folder)
    return [folder / f"{file_name(name)}.png" for name, folder in found]


def digest(name: str, folder: Path) -> str:
    """A SHA-256 digest of the stored data of a figure. A Chinese picture has the one of its data in its metadata."""
    known = _read_record(name, folder)
    found = hashlib.sha256(json.dumps(known["numbers"], sort_keys=True).encode())
    for key in known["tables"]:
        found.update(_table_path(name, folder, key).read_bytes())
    return found.hexdigest()


def read_table(path: Path) -> pd.DataFrame:
    """A table as `store` wrote it."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[MISSING])
    return table.set_index("name") if table.columns[0] == "name" else table


def _write_figure(name: str, folder: Path) -> Figure:
    provenance = _read_record(name, folder)["provenance"]
    if language() == "zh":
        chinese_font()  # raises where there is none
        provenance |= {"data": digest(name, folder)}  # drawn later than the data were stored, perhaps from older ones
    figure = draw(name, folder)
    save_figure(figure, file_name(name), folder, provenance)
    return figure


def _write_record(name: str, folder: Path, known: dict) -> None:
    """Write the caption with what is `known` of the figure's data, which are stored, and both caption and data as a table."""
    recipe = RECIPES[name]
    known = known | {"caption": recipe.caption}
    write_atomic(_record_path(name, folder), json.dumps(known, indent=1, sort_keys=True, default=str) + "\n")
    table = tables.latex(recipe.table(**_read_data(name, folder, known)), recipe.caption, f"tab:{name}")
    write_atomic(folder / "data" / f"{name}.tex", table)


def _read_data(name: str, folder: Path, known: dict) -> dict:
    """The tables and numbers of a figure, by the names of the parameters of its recipe's functions."""
    return {key: read_table(_table_path(name, folder, key)) for key in known["tables"]} | known["numbers"]


def _read_record(name: str, folder: Path) -> dict:
    record = _record_path(name, folder)
    if not record.is_file():
        raise FileNotFoundError(f"no data of figure {name!r} at {record}: run its notebook, which stores them")
    return json.loads(record.read_text())


def _record_path(name: str, folder: Path) -> Path:
    return folder / "data" / f"{name}.json"


def _table_path(name: str, folder: Path, key: str) -> Path:
    return folder / "data" / f"{name}_{key}.csv"
