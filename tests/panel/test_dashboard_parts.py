"""The panel's loading, questions, summary and drawings."""

import re
import threading

import pytest
from streams import until

from kvlib.lab.panel import redraw
from kvlib.lab.panel.dashboard import Dashboard
from kvlib.lab.panel.loading import Loading
from kvlib.lab.panel.settings import CHOOSE, OTHER_QUESTIONS, READER_QUESTIONS
from kvlib.lab.study import runs


def test_loading_can_be_cancelled_and_begun_again(panel, loads, monkeypatch):
    held, inside = threading.Event(), threading.Event()
    load = runs.load
    monkeypatch.setattr(runs, "load", lambda path: (inside.set(), held.wait(60), load(path))[2])
    panel.start.click()
    assert inside.wait(60)
    until(lambda: re.search(r"loading: opening the weights of .*data/reader, \d+ s", panel.said.value))
    assert (panel.stop.description, panel.stop.disabled, panel.start.disabled) == ("Cancel", False, True)
    panel.stop.click()
    until(lambda: "ready" in panel.said.value and not panel.start.disabled)
    panel.start.click()
    until(lambda: "waiting until another model is loaded" in panel.said.value)
    held.set()
    until(lambda: panel.state == "finished")
    assert len(loads) == 2


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_field(panel, monkeypatch):
    def check(self, path):
        raise ValueError(f"{path} is damaged: fetch it again")

    panel.start.click()
    until(lambda: panel.state == "finished")
    first = panel.stream
    monkeypatch.setattr(Loading, "check", check)
    panel.model.value = "someone/model"
    panel.start.click()
    until(lambda: "someone/model is damaged" in panel.notes["model"].value)
    assert panel.stream is first, "what is loaded stays until another can be"


def test_a_question_before_the_start_is_an_error_below_the_question(panel):
    panel.ask.click()
    until(lambda: "press Start first" in panel.notes["question"].value and not panel.ask.disabled)
    panel.question.value = " "
    until(lambda: panel.notes["question"].value == "")
    panel.ask.click()
    until(lambda: "QUESTION=&#x27; &#x27;: give a text" in panel.notes["question"].value)


def test_the_questions_of_the_model_are_offered(panel):
    assert panel.offered.options == (CHOOSE, *READER_QUESTIONS) and "no others" in panel.limits.value
    panel.offered.value = READER_QUESTIONS[1]
    assert panel.question.value == READER_QUESTIONS[1]
    panel.model.value = "Qwen/Qwen2.5-VL-3B-Instruct"
    until(lambda: panel.offered.options == (CHOOSE, *OTHER_QUESTIONS) and "no others" not in panel.limits.value)
    assert panel.question.value == READER_QUESTIONS[1], "a question that was chosen stays"


def test_a_page_without_widgets_shows_a_summary(panel):
    shown = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    for text in ("model: data/reader", "video: data/clips/short.mp4", "budget: 250", "positions: remap", "ready"):
        assert text in shown["text/html"], text
    assert "<img" not in shown["text/html"]
    panel.start.click()
    until(lambda: "finished" in panel.said.value)
    shown = panel._repr_mimebundle_()["text/html"]
    assert "12 of 12 chunks" in shown and "<svg" in shown and len(re.findall("class='(?:evicted|window|sink)'", shown)) == 12


def test_texts_from_fields_and_errors_are_escaped(panel):
    panel.video.value = panel.model.value = "<img src=x onerror=alert(1)>.mp4"
    panel.start.click()
    until(lambda: "no video at" in panel.notes["video"].value and "no model" in panel.notes["model"].value)
    for html in (panel.notes["video"].value, panel.notes["model"].value, panel.summary()):
        assert "<img" not in html and "&lt;img src=x" in html


def test_a_new_panel_stops_the_stream_of_the_old_one(slow):
    slow.start.click()
    slow.on.release(2)
    until(lambda: slow.state == "running")
    Dashboard("data/reader", "data/clips/short.mp4", 250).close()
    assert slow.state == "stopped"
    slow.on.release(20)


def test_a_drawing_that_fails_is_not_the_last(panel, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(panel, "show_buttons", lambda *_: 1 / 0)
        panel.start.click()
        until(lambda: "the panel could not be drawn" in caplog.text)
    panel._redraw.now()
    until(lambda: "finished" in panel.said.value or "running" in panel.said.value)


def test_the_pause_between_drawings_grows_with_what_a_drawing_takes():
    assert (redraw.EVERY, redraw.SHARE) == (1.0, 0.01)
    assert redraw.pause_after(0.001) == 1.0
    assert redraw.pause_after(0.05) == pytest.approx(5.0)


def test_many_requests_are_one_drawing(panel, monkeypatch):
    drawn, held = [], threading.Event()
    drawing = redraw.Redraw(lambda: (drawn.append(1), held.wait(60)), lambda: False)
    drawing.now()
    until(lambda: drawn)
    for _ in range(100):
        drawing.now()
    held.set()
    until(lambda: len(drawn) == 2)
    drawing.now()
    until(lambda: len(drawn) == 3)
    drawing.close()
