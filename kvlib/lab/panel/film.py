"""The film strip: a small picture for every chunk, in a border whose colour is the chunk's kind."""

from collections.abc import Mapping

import ipywidgets as widgets

from kvlib.lab.figures.style import BLUE, GREEN, ORANGE
from kvlib.lab.panel.live import KINDS
from kvlib.lab.panel.record import LAST_PICTURES

COLORS = dict(zip(KINDS, (ORANGE, GREEN, BLUE, "#CCCCCC"), strict=True))
PAGE = 12  # pictures that are sent to the browser together
SLOTS = LAST_PICTURES // PAGE + 1
MAX_SINK = 8  # pictures of the sink
STYLE = (
    "<style>.kvlib-film, .kvlib-strip { display: flex; flex-wrap: wrap; align-content: flex-start }"
    ".kvlib-strip .widget-html, .kvlib-strip .widget-html-content { display: contents }"
    ".kvlib-film img, .kvlib-strip img { border: 3px solid; margin: 1px; height: 36px; width: auto; max-width: 96% }"
    + "".join(f"img.{kind} {{ border-color: {color} !important }}" for kind, color in COLORS.items())
    + "img.evicted { opacity: .45 }</style>"
)
LEGEND = " ".join(f"<span style='border-left: 1em solid {COLORS[kind]}; padding: 0 .6em'>{kind}</span>" for kind in KINDS)


class FilmStrip(widgets.VBox):
    """The sink's pictures above, the newest ones below in a box that scrolls and stays at the newest.

    The pictures lie in `SLOTS` widgets of `PAGE` pictures each, and only those whose content has changed are sent. The order in
    which they are shown comes from the chunks' numbers.
    """

    def __init__(self):
        self.sink = widgets.HTML(layout={"height": "78px", "overflow": "hidden"})
        self.slots = [widgets.HTML() for _ in range(SLOTS)]
        strip = widgets.Box(self.slots, layout={"flex": "0 0 auto", "display": "flex", "flex_flow": "row wrap"})
        strip.add_class("kvlib-strip")
        # In a reversed column the browser keeps the scroll position at the end, where the newest pictures are.
        box = widgets.Box([strip], layout={"height": "142px", "overflow": "auto", "flex_flow": "column-reverse nowrap"})
        super().__init__([self.sink, box], layout={"width": "97%"})
        self.show({}, {})

    def show(self, pictures: Mapping[int, str], kinds: Mapping[int, str]) -> None:
        """Show pictures, JPEG in base64 by chunk number, whose chunks are of these `kinds`, by chunk number too."""
        cells = {index: picture_html(index, pictures[index], kinds[index]) for index in sorted(kinds) if index in pictures}
        sink = [index for index in cells if kinds[index] == "sink"][:MAX_SINK]
        newest = [index for index in cells if index not in sink][-LAST_PICTURES:]
        self.sink.value = f"{STYLE}{LEGEND}<div class='kvlib-film'>{''.join(cells[index] for index in sink)}</div>"
        contents = [""] * SLOTS
        for index in newest:
            contents[index // PAGE % SLOTS] += cells[index]
        for slot, content in zip(self.slots, contents, strict=True):
            slot.value = content

    def html(self) -> str:
        """The same without widgets; "" when there is no picture."""
        if "<img" not in self.sink.value:
            return ""
        return f"{self.sink.value}<div class='kvlib-film'>{''.join(slot.value for slot in self.slots)}</div>"


def picture_html(index: int, jpeg: str, kind: str) -> str:
    return f"<img title='chunk {index}: {kind}' class='{kind}' style='order: {index}' src='data:image/jpeg;base64,{jpeg}'>"
