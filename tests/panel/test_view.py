"""What the panel draws: plot, film strip, answers, notes, and the bounded record of a stream."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from streams import picture

from kvlib.lab.panel import film, record
from kvlib.lab.panel.film import FilmStrip
from kvlib.lab.panel.plot import live_plot
from kvlib.lab.panel.record import add_row, grids_jpeg, small_jpeg
from kvlib.lab.panel.view import answer_table, note

ROWS = [
    dict(chunk=c, time_s=float(c), cache_tokens=tokens, cache_bytes=tokens * 6144, seconds=seconds, event=event)
    for c, (tokens, seconds, event) in enumerate(
        [(100, 0.1, ""), (200, 0.05, ""), (200, 0.2, "eviction"), (200, 0.1, "eviction")]
    )
]


def svg(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def points(element: ElementTree.Element) -> np.ndarray:
    return np.array([list(map(float, pair.split(","))) for pair in element.attrib["points"].split()])


def scale(root: ElementTree.Element, side: str) -> np.ndarray:
    """Slope and offset from heights in the drawing to the numbers at the axis of the left or the right chart."""
    group = root.find("g[@transform='translate(470)']") if side == "right" else root
    ticks = [(float(e.attrib["y"]) - 4, float(e.text.replace(",", ""))) for e in group.findall("text[@text-anchor='end']")]
    return np.polyfit(*zip(*ticks, strict=True), 1)


def test_the_plot_shows_tokens_budget_evictions_and_times_at_the_scale_of_its_axes():
    root = svg(live_plot(ROWS, 250, "clip"))
    tokens, times = root.iter("polyline")
    left, right = scale(root, "left"), scale(root, "right")
    assert np.polyval(left, points(tokens)[:, 1]) == pytest.approx([100, 200, 200, 200], abs=1)
    assert np.polyval(right, points(times)[:, 1]) == pytest.approx([100, 50, 200, 100], abs=1)
    budget = root.find("line[@class='budget']")
    assert np.polyval(left, float(budget.attrib["y1"])) == pytest.approx(250, abs=1)
    marks = [float(x) for x in re.findall(r"M([\d.]+) ", root.find("path[@class='evictions']").attrib["d"])]
    assert marks == pytest.approx(points(tokens)[2:, 0], abs=0.1)
    texts = {element.text for element in root.iter("text")}
    assert {"1.17 MiB held, budget 250", "tokens stored", "milliseconds", "Time per chunk", "chunk"} <= texts


def test_the_title_of_the_plot_is_escaped_and_large_caches_are_in_gib():
    html = live_plot([ROWS[0] | {"cache_bytes": 3 * 2**30}], 250, "<b>a&b</b>.mp4")
    assert "&lt;b&gt;a&amp;b&lt;/b&gt;.mp4" in html and "<b>" not in html
    assert "3 GiB held" in html


def test_a_plot_without_rows_has_axes():
    assert len(list(svg(live_plot([], 0, "none")).iter("polyline"))) == 2


def test_the_plot_is_drawn_in_chinese(monkeypatch):
    monkeypatch.setenv("FIGURE_LANG", "zh")
    texts = {element.text for element in svg(live_plot(ROWS, 250, "clip")).iter("text")}
    assert {"已存词元", "每块用时", "毫秒", "块", "已占用 1.17 MiB，预算 250"} <= texts
    assert not {text for text in texts if re.search("[A-Za-z]", text)} - {"已占用 1.17 MiB，预算 250"}


def test_rows_beyond_the_limit_are_joined_in_pairs(monkeypatch):
    monkeypatch.setattr(record, "MAX_ROWS", 4)
    rows = []
    for row in ROWS:
        rows = add_row(rows, row)
    assert rows == ROWS
    before = list(rows)
    joined = add_row(rows, ROWS[0] | {"chunk": 4})
    assert rows == before, "whoever draws them meanwhile has the old list"
    assert [row["chunk"] for row in joined] == [1, 3, 4]
    assert [row["seconds"] for row in joined] == pytest.approx([0.075, 0.15, 0.1])
    assert [row["event"] for row in joined] == ["", "eviction", ""]
    assert add_row([ROWS[2], ROWS[0]] * 2, ROWS[0])[0]["event"] == "eviction", "of either"


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000), (1, 1), (1080, 1920)])
def test_frames_of_any_shape_have_a_picture(size):
    assert small_jpeg(np.zeros((*size, 3), np.uint8))


def test_the_grids_of_a_chunk_stand_side_by_side_and_what_is_dropped_is_faded():
    frames = np.zeros((5, 72, 144, 3), np.uint8)  # three grids, the last of one frame
    frames[1], frames[3], frames[4] = (200, 40, 40), (40, 160, 40), (40, 40, 120)
    kept = np.zeros((3, 2, 4), bool)
    kept[0], kept[2, 1, 3] = True, True
    shown = picture(grids_jpeg(frames, kept)).astype(int)
    assert shown.shape == (36, 3 * 72 + 2 * 2, 3)
    first, second, third = (shown[:, 74 * grid : 74 * grid + 72] for grid in range(3))
    assert np.abs(first[2:-2, 2:-2] - (200, 40, 40)).max() < 30
    assert np.abs(second[2:-2, 2:-2] - (201, 231, 201)).max() < 30
    assert np.abs(third[20:34, 57:70] - (40, 40, 120)).max() < 30
    assert np.abs(third[2:16, 2:70] - (201, 201, 221)).max() < 30 and np.abs(third[20:34, 2:50] - (201, 201, 221)).max() < 30
    assert shown[:, [72, 73]].min() > 150, "a gap between two grids"


@pytest.mark.parametrize(("grids", "shown"), [(1, [0]), (8, list(range(8))), (16, [0, 2, 4, 6, 9, 11, 13, 15])])
def test_of_many_grids_eight_are_shown_with_the_first_and_the_last(grids, shown):
    levels = 10 + 15 * np.arange(grids)
    frames = np.repeat(levels, 2)[:, None, None, None] * np.ones((1, 36, 72, 3))
    found = picture(grids_jpeg(frames.astype(np.uint8), np.ones((grids, 1, 2), bool)))
    assert [int(found[18, 74 * place + 36].mean()) for place in range(len(shown))] == pytest.approx(levels[shown], abs=4)
    assert found.shape[1] == 74 * len(shown) - 2


def test_one_grid_that_is_kept_looks_as_without_dropping():
    frames = np.random.default_rng(0).integers(0, 256, (2, 70, 140, 3), dtype=np.uint8)
    assert grids_jpeg(frames, np.ones((1, 2, 3), bool)) == small_jpeg(frames[-1])


def shown(html: str) -> list[tuple[str, str]]:
    """Number and kind of the pictures in the order of the page."""
    found = re.findall(r"title='chunk (\d+): (\w+)' class='\w+' style='order: (\d+)'", html)
    return [(number, kind) for number, kind, order in sorted(found, key=lambda cell: int(cell[2]))]


def test_the_film_strip_shows_the_sink_and_the_newest_in_order():
    strip = FilmStrip()
    assert strip.html() == ""
    first = 1000  # a long stream, whose pictures do not begin with the first slot
    kinds = {0: "sink"} | {index: "evicted" if index < first + 100 else "window" for index in range(first, first + 120)}
    strip.show(dict.fromkeys(kinds, "AAAA"), kinds)
    assert shown(strip.sink.value) == [("0", "sink")]
    assert shown("".join(slot.value for slot in strip.slots)) == [(str(i), kinds[i]) for i in range(first, first + 120)]
    assert len(shown(strip.html())) == 121


def test_only_the_slots_that_change_are_sent():
    strip, sent = FilmStrip(), []
    kinds = dict.fromkeys(range(60), "window")
    strip.show(dict.fromkeys(kinds, "AAAA"), kinds)
    for number, slot in enumerate(strip.slots):
        slot.observe(lambda _, number=number: sent.append(number), "value")
    kinds = kinds | {60: "window", 3: "evicted"}
    strip.show(dict.fromkeys(kinds, "AAAA"), kinds)
    assert sent == [3 // film.PAGE, 60 // film.PAGE]


def test_a_picture_that_is_not_there_yet_is_left_out():
    strip = FilmStrip()
    strip.show({0: "AAAA"}, {0: "sink", 1: "window"})
    assert shown(strip.html()) == [("0", "sink")]


def test_answers_are_escaped_and_the_newest_stands_first():
    row = dict(time_s=1.0, question="<i>", answer="<b>", ttft=0.01, truth="", correct=False)
    table = answer_table([row, row | {"answer": "later", "truth": None}])
    assert table.index("later") < table.index("&lt;b&gt;")
    assert "(none)" in table and not re.search("<[bis]>", table)
    assert "&lt;i&gt;" in table and "&lt;s&gt;" in answer_table([row | {"truth": "<s>"}])
    assert "one / two" in answer_table([row | {"answer": "one\ntwo"}])
    assert "word " * 99 + "end" in answer_table([row | {"answer": "word " * 99 + "end"}]), "long ones are whole"


def test_notes_are_escaped_and_an_error_comes_before_a_hint():
    assert note("") == ""
    assert "&lt;b&gt;" in note("<b>") and "<b>" not in note("", "<b>")
    assert "hint" not in note("error", "hint") and "hint" in note("", "hint")
