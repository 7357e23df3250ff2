"""The panel of a running stream, its buttons pressed as a browser would press them."""

import re
import time

import numpy as np
import pytest

from kvlib.lab.panel import dashboard
from kvlib.lab.panel.dashboard import Dashboard, answer_table, film_strip
from kvlib.lab.study import runs


@pytest.fixture
def panel(model, processor, monkeypatch):
    monkeypatch.setattr(runs, "load", lambda *_: (model, processor))
    monkeypatch.setattr(dashboard, "DRAW_EVERY", 0.0)
    return Dashboard("data/reader", "data/clips/short.mp4", 250)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_start_streams_and_asking_fills_the_table(panel):
    assert "ready" in panel.said.value and not panel.start.disabled and panel.pause.disabled and panel.stop.disabled
    panel.start.click()
    until(lambda: panel.stream.rows)
    panel.ask.click()
    until(lambda: panel.answers.value)
    assert panel.question.value in panel.answers.value
    panel.stream.wait(60)
    until(lambda: "finished" in panel.said.value)
    assert "12 of 12 chunks" in panel.said.value and panel.progress.value == panel.progress.max == 12
    assert bytes(panel.plot.value).startswith(b"\x89PNG") and panel.plot.layout.display == "block"
    assert len(re.findall("<img", panel.film.value)) == 12
    assert "class='evicted'" in panel.film.value and "class='sink'" in panel.film.value
    assert not panel.start.disabled and panel.stop.disabled


def test_pause_and_go_on_is_the_same_stream(panel):
    panel.start.click()
    until(lambda: panel.stream.rows)
    panel.pause.click()
    stream = panel.stream
    if stream.state == "paused":  # it may have been quicker
        assert not panel.start.disabled
        panel.start.click()
    assert panel.stream is stream
    panel.stop.click()
    assert stream.state in ("stopped", "finished")
    panel.start.click()
    assert panel.stream is not stream, "a new start is a new stream"
    panel.stop.click()


def test_a_page_without_widgets_shows_a_summary(panel):
    shown = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    for text in ("model: data/reader", "video: data/clips/short.mp4", "budget: 250", "positions: remap", "ready"):
        assert text in shown["text/html"], text
    assert "<img" not in shown["text/html"]
    panel.start.click()
    panel.stream.wait(60)
    until(lambda: "finished" in panel.said.value)
    shown = panel._repr_mimebundle_()["text/html"]
    assert (
        "12 of 12 chunks" in shown and "image/png" in shown and len(re.findall("class='(?:evicted|window|sink)'", shown)) == 12
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("video", "nowhere.mp4", "FileNotFoundError.*nowhere.mp4"), ("budget", 20, "ValueError.*raise max_cache_tokens")],
)
def test_errors_are_shown_and_the_panel_stays_usable(panel, field, value, message):
    before = getattr(panel, field).value
    getattr(panel, field).value = value
    panel.start.click()
    until(lambda: re.search(message, panel.said.value))
    getattr(panel, field).value = before
    panel.start.click()
    until(lambda: panel.stream is not None and panel.stream.rows)
    panel.stop.click()


def test_a_question_before_the_start_is_an_error_in_the_panel(panel):
    panel.ask.click()
    until(lambda: "press Start first" in panel.said.value)
    until(lambda: not panel.ask.disabled)


def test_texts_from_fields_and_errors_are_escaped(panel):
    panel.video.value = "<img src=x onerror=alert(1)>.mp4"
    panel.start.click()
    until(lambda: "FileNotFoundError" in panel.said.value)
    for html in (panel.said.value, panel.summary()):
        assert "<img" not in html and "&lt;img src=x" in html


def test_a_long_film_strip_keeps_the_sink_and_the_newest(monkeypatch):
    monkeypatch.setattr(dashboard, "LAST_PICTURES", 3)
    pictures = [np.full((4, 6, 3), level, np.uint8) for level in range(10)]
    strip = film_strip(pictures, ["sink", *["evicted"] * 7, "window", "window"])
    found = re.findall(r"title='chunk (\d+): (\w+)'", strip)
    assert found == [("0", "sink"), ("7", "evicted"), ("8", "window"), ("9", "window")]


def test_answers_are_escaped_and_the_newest_stands_first():
    row = dict(time_s=1.0, question="<i>", answer="<b>", ttft=0.01, truth="", correct=False)
    table = answer_table([row, row | {"answer": "later", "truth": None}])
    assert table.index("later") < table.index("&lt;b&gt;")
    assert "(none)" in table and not re.search("<[bis]>", table)
    assert "&lt;i&gt;" in table and "&lt;s&gt;" in answer_table([row | {"truth": "<s>"}])
    assert "one / two" in answer_table([row | {"answer": "one\ntwo"}])
