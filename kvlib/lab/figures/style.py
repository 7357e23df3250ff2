"""The look of every figure: sizes, colours, line styles and fonts, and how a figure is opened, given a legend and saved.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Markers and line styles differ too, so that the
figures can be read in a grey print. Sizes suit a thesis on A4 paper.
"""

import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from kvlib.lab.figures.fonts import font_families, use_installed_fonts
from kvlib.lab.report.files import write_atomic

# Inches. An A4 page with margins of 2.5 cm leaves 16 cm for text; two columns lie 4 mm apart.
TWO_COLUMNS = 6.3
ONE_COLUMN = 3.07

STYLE = sns.axes_style("whitegrid") | {
    "font.family": font_families(),
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,  # TrueType, embedded: text stays text
    "text.usetex": False,  # texts of the data are not LaTeX, whatever the user's matplotlibrc says
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY = "#CC79A7", "#56B4E9"
GREY, LIGHT_GREY = "#666666", "#CCCCCC"
SERIES = [
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": RED, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
    {"color": GREEN, "marker": "^", "linestyle": "-."},
    {"color": ORANGE, "marker": "D", "linestyle": ":", "markerfacecolor": "white"},
    {"color": PURPLE, "marker": "v", "linestyle": (0, (5, 1, 1, 1))},
    {"color": SKY, "marker": "o", "linestyle": (0, (4, 1)), "markerfacecolor": "white"},
]
LIMIT = {"color": GREY, "linestyle": (0, (1, 1)), "linewidth": 1}


def new_figure(width: float, height: float, **subplots):
    """A figure of `width` x `height` inches and its axes, in `STYLE`; `subplots` goes to `plt.subplots`.

    pyplot no longer holds the figure, because Jupyter would show it twice otherwise: show it with `display`.
    """
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(width, height), **subplots)
    plt.close(fig)
    return fig, axes


def line_styles() -> Iterator[dict]:
    """The styles of `SERIES`, then their colours again with the other line styles."""
    for shift in range(len(SERIES)):
        for i, style in enumerate(SERIES):
            yield style | {"linestyle": SERIES[(i + shift) % len(SERIES)]["linestyle"]}


def legend_below(fig: Figure, ncols: int, more: Sequence[Artist] = ()) -> None:
    """Put one legend for all panels below them; a label that several panels have is listed once.

    Args:
        more: handles to list before those of the panels.
    """
    handles = {handle.get_label(): handle for handle in more}
    for axis in fig.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
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
