"""The look of every figure: sizes, fonts, and the colour of every name; how a figure is opened, given a legend and saved.

A name has the same colour, marker and line in every figure. Colours are Okabe and Ito's, and Tol's, which colour-blind
readers can tell apart. Markers, lines and hatches differ too, so that the figures can be read in a grey print. Sizes suit a
thesis on A4 paper: no text is smaller than 10 pt at the width that a figure is drawn with.
"""

import io
import json
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvlib.lab.figures.fonts import font_families, use_installed_fonts
from kvlib.lab.figures.labels import label
from kvlib.lab.report.files import write_atomic

# Inches. An A4 page with margins of 2.5 cm leaves 16 cm for text; two columns lie 4 mm apart.
TWO_COLUMNS = 6.3
ONE_COLUMN = 3.07
TEXT = 10  # points

STYLE = sns.axes_style("whitegrid") | {
    "font.family": font_families(),
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "figure.titlesize": TEXT,
    "figure.labelsize": TEXT,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,  # TrueType, embedded: text stays text
    "text.usetex": False,  # texts of the data are not LaTeX, whatever the user's matplotlibrc says
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, WINE, OLIVE = "#CC79A7", "#56B4E9", "#882255", "#999933"
INDIGO, BRONZE, TEAL, MAGENTA = "#332288", "#AA7722", "#44AA99", "#AA4499"
BLACK, GREY, LIGHT_GREY = "#000000", "#666666", "#CCCCCC"
LIMIT = {"color": GREY, "linestyle": (0, (1, 1)), "linewidth": 1}
INTERVAL = {"linestyle": "", "capsize": 2, "elinewidth": 0.8}  # points with error bars and no line between them


def _look(color: str, marker: str, line="-", filled: bool = True) -> dict:
    return {"color": color, "marker": marker, "linestyle": line, "markerfacecolor": color if filled else "white"}


LOOKS = {
    # position modes; a sink with a window looks like "remap", its mode
    "keep": _look(RED, "s", "--", False),
    "remap": _look(BLUE, "o"),
    "compact": _look("#5E9C2E", "P", (0, (4, 1)), False),
    "unrotated": _look("#B8860B", "s", ":"),
    "8-bit": _look("#7FB9D6", "^", "-.", False),
    # policies and scorers
    "none": _look(GREY, "X", "--"),
    "uniform": _look(GREEN, "^", "-."),
    "last_n": _look(ORANGE, "D", ":", False),
    "surprise": _look(PURPLE, "v", (0, (5, 1, 1, 1))),
    "value_norm": _look(SKY, "s", (0, (4, 1))),
    "key_norm": _look(WINE, "P", (0, (2, 1)), False),
    "temporal_redundancy": _look(OLIVE, "<", (0, (3, 1, 1, 1, 1, 1))),
    "random": _look(BLACK, "*", (0, (1, 2))),
    # recall
    "recall 1": _look("#4477AA", "^", "-", False),
    "recall 2": _look("#117733", "d"),
    "recall 4": _look("#8C6D1F", ">", "--", False),
    "recall auto": _look("#CC3311", "p", "-."),
    "true chunk": _look("#222222", "h", "-", False),
    "random chunk": _look("#888888", "*", ":"),
    # questions, and the region of the cache that answers them
    "now": _look(TEAL, "s", "--", False),
    "title": _look(INDIGO, "^", "-."),
    "backward": _look(BRONZE, "o", "-"),
    "never shown": _look(MAGENTA, "X", ":"),
    "chain": _look("#EE3377", "v", "--", False),
}
SAME = {  # another name of a thing in `LOOKS`
    "sink_window": "remap", "sink + window": "remap", "window, remap": "remap", "original": "remap", "kvlib": "remap",
    "window, keep": "keep", "re-rotated": "unrotated", "kvlib, 8-bit": "8-bit",
    "no eviction": "none", "plain": "none", "recompute_recent": "last_n", "the right card": "true chunk",
    "ranked first, now": "now", "ranked first, title": "title", "ranked first, never shown": "never shown",
    "current line": "now", "history": "backward",
}  # fmt: skip
FILLS = {  # of bars and areas
    "sink": {"facecolor": INDIGO, "hatch": ""},
    "history": {"facecolor": BRONZE, "hatch": "////"},
    "recent": {"facecolor": TEAL, "hatch": "...."},
    "question": {"facecolor": LIGHT_GREY, "hatch": ""},
}
SPARE = [  # for names that are not in `LOOKS`; each colour once filled and once not
    _look(color, marker, line, filled)
    for filled in (True, False)
    for color, marker, line in [
        ("#CC6677", "o", "-"), ("#225555", "s", "--"), ("#88CCEE", "^", "-."), ("#661100", "D", ":"),
        ("#BBAA33", "v", (0, (4, 1))), ("#6699CC", "P", (0, (5, 1, 1, 1))), ("#44BB55", "X", (0, (2, 1))),
        ("#775599", "<", (0, (1, 2))),
    ]
]  # fmt: skip


def looks_of(names: Iterable[str]) -> dict[str, dict]:
    """The colour, marker and line of every name: those of `LOOKS`, for another name the spare ones that its letters choose.

    Two other names of one call have different colours as long as there are enough spare ones, and then different looks.
    """
    looks: dict[str, dict] = {}
    for name in dict.fromkeys(map(str, names)):
        first = zlib.crc32(name.encode()) % len(SPARE)
        spare = SPARE[first:] + SPARE[:first]
        colors = [look["color"] for look in looks.values()]
        free = [look for look in spare if look not in looks.values()]
        free.sort(key=lambda look: look["color"] in colors)  # stable: the first that its letters choose stays the first
        looks[name] = LOOKS.get(SAME.get(name, name)) or (free or spare)[0]
    return looks


def new_figure(width: float, height: float, **subplots):
    """A figure of `width` x `height` inches and its axes, in `STYLE`; `subplots` goes to `plt.subplots`.

    pyplot no longer holds the figure, because Jupyter would show it twice otherwise: show it with `display`.
    """
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(width, height), **subplots)
    plt.close(fig)
    return fig, axes


def plot_points(axis: Axes, rows: pd.DataFrame, over: str, by: str) -> None:
    """Draw a point with its interval for every value of the column `over` and every name in the column `by`.

    The values of `over` stand side by side at equal distances, whatever their size, each in a column of its own; in a column
    the names stand beside each other. No line joins the points, because nothing was measured between them.

    Args:
        rows: one row per point, with `accuracy` and its interval `low` and `high`.
    """
    looks, values = looks_of(rows[by].unique()), sorted(rows[over].unique())
    step = min(0.84 / len(looks), 0.2)
    for i, (name, look) in enumerate(looks.items()):
        found = rows[rows[by].map(str) == name].sort_values(over)
        at = found[over].map(values.index) + step * (i - (len(looks) - 1) / 2)
        axis.errorbar(at, found["accuracy"], yerr=interval_bars(found), label=label(name), **look | INTERVAL)
    for place in range(1, len(values)):
        axis.axvline(place - 0.5, color=LIGHT_GREY, linewidth=0.4, zorder=0)
    axis.set_xticks(range(len(values)), [f"{value:,}" for value in values])
    axis.set_xlim(-0.5, len(values) - 0.5)
    axis.grid(axis="x", visible=False)


def interval_bars(rows: pd.DataFrame, share: str = "accuracy", low: str = "low", high: str = "high") -> list[pd.Series] | None:
    """The lengths of error bars; None where no row has an interval, so that the legend shows no bars either.

    Rounding puts some bounds past 0 and 1; matplotlib refuses the negative lengths.
    """
    if rows[low].isna().all():
        return None
    return [(rows[share] - rows[low]).clip(lower=0), (rows[high] - rows[share]).clip(lower=0)]


def shares_axis(axis: Axes) -> None:
    """Give `axis` shares from 0 to 1 upward, with room for the marks at both ends."""
    axis.set_ylim(-0.04, 1.04)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])


def legend_below(fig: Figure, ncols: int, more: Sequence[Artist] = ()) -> None:
    """Put one legend for all panels below them; a label that several panels have is listed once.

    Args:
        more: handles to list before those of the panels.
    """
    handles = {handle.get_label(): handle for handle in more}
    for axis in fig.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols, frameon=False)


def save_figure(fig: Figure, name: str, folder: Path, provenance: dict) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png` (300 dpi) to `folder`; return both paths.

    The provenance (`Report.provenance`) goes into the files' metadata. Neither time nor commit does, so that the same data
    give the same bytes. A text with characters that the fonts of `STYLE` lack gets other installed fonts; a UserWarning names
    the characters that none has.
    """
    use_installed_fonts(fig, STYLE["font.family"])
    provenance = json.dumps(provenance, sort_keys=True, default=str)
    kinds = {
        "pdf": {"Title": name, "Subject": provenance, "CreationDate": None},
        "png": {"Title": name, "Description": provenance},
    }
    written = []
    for kind, metadata in kinds.items():
        buffer = io.BytesIO()
        with plt.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # said above, once
            fig.savefig(buffer, format=kind, dpi=300, metadata=metadata)
        path = folder / f"{name}.{kind}"
        write_atomic(path, buffer.getvalue())
        written.append(path)
    return written
