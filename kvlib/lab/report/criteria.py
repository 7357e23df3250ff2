"""Criteria and their verdicts, and the one table of them that reports, the page of a run and the runner show."""

from collections.abc import Sequence

import pandas as pd

from kvlib.lab.report.files import as_json
from kvlib.lab.report.text import printable

PASS, FAIL, WARN = "PASS", "FAIL", "WARN"
COLUMNS = ["id", "verdict", "description", "measured"]


def criteria_table(criteria: Sequence[dict]) -> pd.DataFrame:
    """The criteria as texts, one row each: `id`, `verdict`, `description`, `measured`.

    When the criteria have a key `notebook`, because they come from several reports, it is the first column. A text is one
    line: `kvlib.lab.report.text.printable` shows the line breaks and control characters that an answer may hold.
    """
    named = bool(criteria) and all("notebook" in row for row in criteria)
    columns = ["notebook", *COLUMNS] if named else COLUMNS
    texts = [row | {"measured": value_text(row["measured"])} for row in criteria]
    return pd.DataFrame([[printable(str(row[name])) for name in columns] for row in texts], columns=columns)


def count_verdicts(criteria: Sequence[dict]) -> str:
    """How many criteria have each verdict, such as "4 PASS, 1 WARN, 0 FAIL"."""
    verdicts = [row["verdict"] for row in criteria]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (PASS, WARN, FAIL))


def value_text(value) -> str:
    """A measured value for people: numbers to four digits, "not measured" for None, NaN and infinity."""
    value = as_json(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else str(value)
