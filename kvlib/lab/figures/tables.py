"""The numbers of every figure as a table for LaTeX (booktabs), with n and 95% intervals.

Every function takes what the function takes that draws the figure, and returns the cells as texts, of which `latex` makes a
table.
"""

import re

import pandas as pd

from kvlib.lab.report.statistics import median_interval, wilson, with_interval
from kvlib.lab.report.text import printable

LONGEST = 40  # rows of a table that stays on one page; a longer one is a longtable
WIDEST = 30  # characters of a text in one line; a column with a longer one is 4.5 cm wide and breaks its lines
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
NUMBER = re.compile(r"(?:[-\d.,/\[\] ]|to |e-)*|none")  # a cell of a column of numbers
RIGHT = "right (%) [95%]"  # the column of shares with intervals


def latex(table: pd.DataFrame, caption: str, label: str | None = None) -> str:
    """A LaTeX table (booktabs; longtable for many rows) of the texts of `table`, which fits a page of 16 cm."""
    sides = "".join(_side(table[column].astype(str)) for column in table)
    cells = table.astype(str).map(escaped).rename(columns=escaped)
    options = dict(index=False, escape=False, caption=escaped(caption), column_format=sides)
    if len(table) > LONGEST:
        return cells.to_latex(longtable=True, label=label, **options)
    return cells.to_latex(position="tbp", label=label, **options)


def escaped(text: str) -> str:
    """A text in which LaTeX reads no command."""
    return "".join(SPECIAL.get(character, character) for character in printable(str(text)))


def percent(share: float, low: float, high: float) -> str:
    """A share in per cent, with its interval where it has one; "none" for NaN."""
    return "none" if pd.isna(share) else with_interval(100 * share, 100 * low, 100 * high, ".1f")


def sinks(increments: pd.DataFrame, sinks: pd.DataFrame, constant: int = 128) -> pd.DataFrame:
    added = increments[increments["chunk"] > 0].groupby("configuration")["new_tokens"].agg(["min", "max", "count"])
    found = added.reindex(sinks["configuration"])
    growth = [_span(low, high) for low, high in zip(found["min"], found["max"], strict=True)]
    return pd.DataFrame(
        {
            "configuration": sinks["configuration"],
            "sink (tokens)": sinks["sink_tokens"],
            "tokens of a later chunk": growth,
            "n (later chunks)": found["count"].fillna(0).astype(int).to_numpy(),
        }
    )


def kept(counts: pd.DataFrame, kept: pd.DataFrame, picture: str, drop_static: float) -> pd.DataFrame:
    rows = counts.sort_values(["chunk_frames", "drop_static"])
    columns = {
        "frames a chunk": rows["chunk_frames"],
        "threshold": rows["drop_static"].map("{:g}".format),
        "tokens a second": rows["tokens_per_s"].map("{:.1f}".format),
    }
    return pd.DataFrame(columns | ({"n (chunks)": rows["chunks"]} if "chunks" in rows else {}))


def memory(chunks: pd.DataFrame, budget_tokens: int, limit_bytes: int | None = None) -> pd.DataFrame:
    lines = []
    for run, rows in chunks.groupby("run", sort=False):
        events = rows["event"]
        largest = f"{rows['cache_bytes'].max() / 2**20:,.1f}"
        end = "out of memory" if (events == "out of memory").any() else "end of the video"
        lines.append((run, len(rows), (events == "eviction").sum(), f"{rows['cache_tokens'].max():,}", largest, end))
    return pd.DataFrame(lines, columns=["run", "n (chunks)", "evictions", "most tokens", "most MiB", "ends with"])


def lines(lines: pd.DataFrame, asks: pd.DataFrame) -> pd.DataFrame:
    """A row per subtitle with its number in the figure, then the shares of subtitles found and of right answers."""
    known = lines["start_s"].notna()
    times = ("read_start_s", "read_end_s") if "read_as" in lines else ()
    rows = [
        (
            number,
            _seconds(row["start_s"], row["end_s"]),
            " ".join((row["text"] if shown else f"(in no subtitle) {row['read_as']}").split()),
            _seconds(*(row[time] for time in times)) if times else "",
            ("yes" if row["found"] else "no" if row["asked"] else "not asked") if shown else "",
        )
        for number, (row, shown) in enumerate(zip(lines.to_dict("records"), known, strict=True), 1)
    ]
    for name, right in (("subtitles found", lines.loc[known, "found"]), ("right answers", asks["exact"])):
        if n := len(right):
            rows.append(("", "", f"{name}, n = {n}: {percent(right.mean(), *wilson(right.sum(), n))} %", "", ""))
    return pd.DataFrame(rows, columns=["no.", "on screen (s)", "subtitle", "read at (s)", "found"])


def ttft(asks: pd.DataFrame, limit_s: float) -> pd.DataFrame:
    found = 1e3 * asks["ttft"]
    cells = [len(found), _median(found), *(f"{v:.1f}" for v in (found.min(), found.max()))]
    names = ["n (questions)", "median (ms) [95%]", "least (ms)", "largest (ms)", "limit (ms)"]
    return pd.DataFrame([[*cells, f"{1e3 * limit_s:,.0f}"]], columns=names)


def over_length(scores: pd.DataFrame, first_eviction: float | None = None) -> pd.DataFrame:
    return _shares(scores, {"question": "question", "position_mode": "positions", "chunks": "chunks streamed"})


def attention(shares: pd.DataFrame) -> pd.DataFrame:
    """The mean of each region over heads, with the least and the largest head."""
    by = ["position_mode", "layer", "region"]
    found = shares.groupby(by, sort=False)["share"].agg(["mean", "min", "max", "count"]).reset_index()
    found["cell"] = [percent(*bounds) for bounds in zip(found["mean"], found["min"], found["max"], strict=True)]
    table = found.pivot(index=by[:2], columns="region", values="cell").reindex(columns=shares["region"].unique())
    counts = found.groupby(by[:2])["count"].max()
    table = table.rename(columns=lambda region: f"{region} (%)").assign(n=counts)
    return table.reset_index().rename(columns={"position_mode": "positions", "n": "n (heads)"}).rename_axis(columns=None)


def strategies(summary: pd.DataFrame) -> pd.DataFrame:
    columns = {"strategy": list(summary.index)}
    for question in ("now", "backward"):
        bounds = zip(*(summary[f"{question}{end}"] for end in ("", "_low", "_high")), strict=True)
        columns[f"{question} (%) [95%]"] = [percent(*found) for found in bounds]
    columns["n"] = [f"{now} / {back}" for now, back in zip(summary["now_n"], summary["backward_n"], strict=True)]
    return pd.DataFrame(columns | {"ms a chunk": [f"{1e3 * s:.1f}" for s in summary["seconds"]]})


def retention(scores: pd.DataFrame) -> pd.DataFrame:
    return _shares(scores, {"contender": "method", "age": "age (chunks)"})


def budgets(scores: pd.DataFrame) -> pd.DataFrame:
    return _shares(scores, {"question": "question", "contender": "method", "budget": "budget (tokens)"})


def timeline(timeline: pd.DataFrame) -> pd.DataFrame:
    """What is stored at the last moment: how many chunks, and how many of them are from the first half of the stream."""
    last = timeline["moment"].max()
    stored = timeline[timeline["moment"] == last].groupby("contender", sort=False)["alive"]
    early = stored.agg(lambda alive: (alive < (last + 1) / 2).sum())
    table = pd.DataFrame({"chunks stored at the end": stored.count(), "from the first half": early})
    table = table.reindex(timeline["contender"].unique()).rename_axis("method").reset_index()
    return table.assign(**{"n (chunks streamed)": int(last) + 1})


def drift(drift: pd.DataFrame) -> pd.DataFrame:
    errors = drift.assign(error=drift["error"].map("{:.2g}".format)).pivot(index="turns", columns="method", values="error")
    return errors.fillna("").reset_index().rename(columns={"turns": "evictions"}).rename_axis(columns=None)


def recall(scores: pd.DataFrame) -> pd.DataFrame:
    names = {"chunks": "chunks streamed", "panel": "group", "method": "method", "age": "age (chunks)", "streams": "n (streams)"}
    return _shares(scores, names, counted=False)


def ranking(attention: pd.DataFrame, firsts: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """A row per kind of question with its median and the share at or above the threshold, then what was ranked first."""
    rows = []
    for kind, found in attention.groupby("kind", sort=False)["times"]:
        above = (found >= threshold).sum()
        rows.append((kind, _median(found), percent(above / len(found), *wilson(above, len(found))), len(found)))
    asked = firsts["questions"].sum()
    for first, count in zip(firsts["first"], firsts["questions"], strict=True):
        rows.append((f"ranked first: {first}", "", percent(count / asked, *wilson(count, asked)), asked))
    return pd.DataFrame(rows, columns=["", "median attention [95%]", "share (%) [95%]", "n (questions)"])


def modes(modes: pd.DataFrame) -> pd.DataFrame:
    return _shares(modes.rename(columns={"score": "accuracy"}), {"method": "method", "mode": "mode"})


def tasks(tasks: pd.DataFrame) -> pd.DataFrame:
    return _shares(tasks.rename(columns={"share": "accuracy"}), {"method": "method", "mode": "mode", "task": "task"})


def _shares(scores: pd.DataFrame, columns: dict[str, str], counted: bool = True) -> pd.DataFrame:
    """The `columns` of the scores under their new names, the share with its interval, and n."""
    scores = scores.sort_values(list(columns), key=_rank)
    cells = [percent(*bounds) for bounds in zip(scores["accuracy"], scores["low"], scores["high"], strict=True)]
    table = scores[list(columns)].rename(columns=columns)
    return table.assign(**{RIGHT: cells} | ({"n": scores["n"]} if counted else {}))


def _side(column: pd.Series) -> str:
    """How LaTeX sets a column of texts: numbers on the right, other texts on the left."""
    if column.str.fullmatch(NUMBER).all():
        return "r"
    return "p{4.5cm}" if column.str.len().max() > WIDEST else "l"


def _median(values: pd.Series) -> str:
    """The median with its interval, where there are enough values for one."""
    low, high = median_interval(values)
    return with_interval(values.median(), low, high, ".1f")


def _rank(column: pd.Series) -> pd.Series:
    """What a column is sorted by: numbers by their size, texts by where they first appear."""
    return column if pd.api.types.is_numeric_dtype(column) else pd.Series(pd.factorize(column)[0], column.index)


def _seconds(start_s: float, end_s: float) -> str:
    return "" if pd.isna(start_s) else f"{start_s:.1f} to {end_s:.1f}"


def _span(low: float, high: float) -> str:
    return "none" if pd.isna(low) else f"{low:g}" if low == high else f"{low:g} to {high:g}"
