"""What the reports in a run's folder say, as rows of the sweep's table."""

import json
import numbers
from pathlib import Path


def read_measured(folder: Path) -> list[dict]:
    """Rows name, value, n, low, high, unit, verdict, text of the reports in a run's folder.

    Raises OSError, ValueError, KeyError or TypeError for a report that cannot be read.
    """
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
