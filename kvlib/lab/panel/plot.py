"""The live plot as SVG, which the browser draws: in a thread beside the stream matplotlib would take Python's lock from it."""

from collections.abc import Sequence
from html import escape

from matplotlib.ticker import MaxNLocator

from kvlib.lab.figures.labels import label
from kvlib.lab.figures.style import BLUE, GREY, RED

WIDTH, HEIGHT = 470, 190  # of one of the two charts, in the units of the SVG
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 24, 36
TICKS = MaxNLocator(4, steps=[1, 2, 5, 10], integer=True, min_n_ticks=2)


def live_plot(rows: Sequence[dict], budget: int, title: str) -> str:
    """Tokens stored against the budget with evictions marked, and milliseconds per chunk, as HTML with an SVG.

    Args:
        rows: one per chunk: `chunk`, `cache_tokens`, `cache_bytes`, `seconds`, `event` ("" or "eviction").
        budget: a line in the left chart. title: a text above both, such as what is streamed; it is escaped.
    """
    chunks = [row["chunk"] for row in rows]
    tokens = [row["cache_tokens"] for row in rows]
    times = [1e3 * row["seconds"] for row in rows]
    held = f"{_size(rows[-1]['cache_bytes'])} held, budget {budget:,}" if rows else f"budget {budget:,}"
    left = _Chart(chunks, max([1, budget, *tokens]))
    parts = [left.axes(label("tokens stored"), label(held)), left.level(budget), left.line(tokens, BLUE)]
    parts += [left.ticks_below([row["chunk"] for row in rows if row["event"]])]
    right = _Chart(chunks, max([1.0, *times]))
    shifted = right.axes(label("milliseconds"), label("Time per chunk")) + right.line(times, RED)
    return (
        f"<div class='kvlib-title'>{escape(title)}</div>"
        f"<svg class='kvlib-plot' viewBox='0 0 {2 * WIDTH} {HEIGHT}' width='{2 * WIDTH}' height='{HEIGHT}' "
        "style='max-width: 100%; font: 12px sans-serif' fill='currentColor'>"
        f"{''.join(parts)}<g transform='translate({WIDTH})'>{shifted}</g></svg>"
    )


class _Chart:
    """Axes from 0 to `top` over the given chunk numbers."""

    def __init__(self, chunks: Sequence[int], top: float):
        self.chunks = chunks
        self.last = max([1, *chunks])
        self.top = 1.08 * top

    def x(self, chunk: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * chunk / self.last

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def axes(self, name: str, title: str) -> str:
        """Frame, grid, ticks with their numbers, labels and title."""
        bottom, parts = HEIGHT - BOTTOM, []
        for value in _ticks(self.top):
            parts += [_rule(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), "opacity='.2'")]
            parts += [_text(LEFT - 6, self.y(value) + 4, f"{value:,}", "end")]
        for value in _ticks(self.last):
            parts += [_rule(self.x(value), bottom, self.x(value), bottom + 4)]
            parts += [_text(self.x(value), bottom + 16, f"{value:,}")]
        middle = (TOP + bottom) / 2
        parts += [
            _rule(LEFT, bottom, WIDTH - RIGHT, bottom),
            _rule(LEFT, TOP, LEFT, bottom),
            _text((LEFT + WIDTH - RIGHT) / 2, TOP - 9, title),
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, label("chunk")),
            f"<g transform='rotate(-90 12 {middle:.1f})'>{_text(12, middle, name)}</g>",
        ]
        return "".join(parts)

    def line(self, values: Sequence[float], color: str) -> str:
        points = " ".join(f"{self.x(chunk):.1f},{self.y(value):.1f}" for chunk, value in zip(self.chunks, values, strict=True))
        return f"<polyline points='{points}' fill='none' stroke='{color}' stroke-width='1.6'/>"

    def level(self, value: float) -> str:
        look = f"class='budget' style='stroke: {GREY}' stroke-dasharray='3 3'"
        return _rule(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), look)

    def ticks_below(self, chunks: Sequence[int]) -> str:
        """A mark at the lower edge for each of the chunks, in one path."""
        bottom = HEIGHT - BOTTOM
        path = "".join(f"M{self.x(chunk):.1f} {bottom - 1}v-6" for chunk in chunks)
        return f"<path class='evictions' d='{path}' stroke='{BLUE}'/>"


def _ticks(top: float) -> list[int]:
    return [round(value) for value in TICKS.tick_values(0, top) if 0 <= value <= top]


def _size(count: float) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def _rule(x1: float, y1: float, x2: float, y2: float, look: str = "") -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='currentColor' {look}/>"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"
