"""Tables to draw figures from, and what a drawn figure shows."""

import io
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvlib.lab.figures.style import STYLE
from kvlib.lab.report.statistics import wilson

DATA_TEXT = "再见，月亮"  # a subtitle with characters that DejaVu Sans lacks


def with_shares(scores: pd.DataFrame) -> pd.DataFrame:
    """The table with the share of right answers and its Wilson interval."""
    low, high = wilson(scores["correct"], scores["n"])
    return scores.assign(accuracy=scores["correct"] / scores["n"], low=low, high=high)


SCORES = pd.DataFrame(
    [
        {"question": question, "position_mode": mode, "chunks": chunks, "correct": correct, "n": 32}
        for question, mode, counts in [
            ("title", "keep", (32, 18, 0)),
            ("title", "remap", (32, 31, 32)),
            ("current line", "keep", (32, 31, 29)),
            ("current line", "remap", (32, 32, 30)),
        ]
        for chunks, correct in zip((8, 24, 96), counts, strict=True)
    ]
).pipe(with_shares)
CHUNKS = pd.DataFrame(
    [
        {"run": run, "chunk": c, "cache_tokens": tokens, "cache_bytes": tokens * 6144, "seconds": 0.05, "event": event}
        for run, rows in {
            "no eviction": [(100, ""), (200, ""), (300, "out of memory")],
            "sink + window": [(100, ""), (200, ""), (200, "eviction"), (200, "eviction")],
        }.items()
        for c, (tokens, event) in enumerate(rows)
    ]
)


def legend_texts(fig: Figure) -> list[str]:
    legends = [*fig.legends, *(axis.get_legend() for axis in fig.axes if axis.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def line(axis: Axes, label: str) -> tuple[list, list]:
    """The x and y values of the one line with that label."""
    (found,) = [item for item in axis.lines if item.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def texts(fig: Figure) -> list[str]:
    """Every text on the drawn figure, as a reader sees it: the figure is drawn as SVG, which keeps texts as texts.

    Raises what matplotlib warns of, such as a character that no font has.
    """
    buffer = io.BytesIO()
    with plt.rc_context(STYLE | {"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
