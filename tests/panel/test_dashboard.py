"""The panel of a running stream, its buttons pressed as a browser would press them."""

import re
import threading

import pytest
import torch
from streams import cut_clip, until

from kvlib.lab.panel import dashboard


def test_start_streams_and_asking_fills_the_table(panel):
    assert "ready" in panel.said.value and not panel.start.disabled and panel.pause.disabled and panel.stop.disabled
    panel.start.click()
    until(lambda: panel.stream and panel.stream.processed)
    panel.ask.click()
    until(lambda: panel.answers.value)
    assert panel.question.value in panel.answers.value
    until(lambda: "finished" in panel.said.value)
    assert "12 of 12 chunks" in panel.said.value and panel.progress.value == panel.progress.max == 12
    assert "<polyline" in panel.plot.value and "budget 250" in panel.plot.value
    film = panel.film.html()
    assert len(re.findall("<img", film)) == 12 and "class='evicted'" in film and "class='sink'" in film
    until(lambda: not panel.start.disabled and panel.stop.disabled)


def test_many_clicks_on_start_are_one_stream(slow, loads, monkeypatch):
    made, kind = [], dashboard.LiveStream
    monkeypatch.setattr(dashboard, "LiveStream", lambda *a, **k: made.append(kind(*a, **k)) or made[-1])
    clicks = [threading.Thread(target=slow.start.click) for _ in range(20)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    until(lambda: slow.state == "running")
    slow.start.click()
    slow.on.release(12)
    until(lambda: slow.state == "finished")
    assert len(made) == len(loads) == 1


def test_a_paused_stream_goes_on_with_its_own_settings(slow):
    slow.start.click()
    slow.on.release(2)
    until(lambda: len(slow.begun) == 3)
    slow.pause.click()  # the third chunk, which has begun, is still processed
    slow.on.release()
    until(lambda: "paused: 3" in slow.said.value)
    stream = slow.stream
    until(lambda: slow.start.description == "Continue" and not slow.start.disabled)
    slow.budget.value, slow.policy.value, slow.video.value = 999, "uniform", "data/clips/lyrics.mp4"
    until(lambda: "budget, policy: from the next start" in slow.notes["settings"].value)
    until(lambda: "video: from the next start" in slow.notes["video"].value)
    assert slow.notes["model"].value == ""
    assert "budget 250" in slow.plot.value and "999" not in slow.plot.value and "short.mp4" in slow.plot.value
    slow.start.click()
    slow.on.release(20)
    until(lambda: "finished: 12" in slow.said.value)
    assert slow.stream is stream
    assert "budget 250" in slow.plot.value
    until(lambda: slow.notes["settings"].value == "")  # the next start is obvious
    slow.video.value = "data/clips/short.mp4"
    slow.start.click()
    slow.on.release(20)
    until(lambda: slow.stream is not stream and slow.state == "finished")
    until(lambda: "uniform" in slow.plot.value and "budget 999" in slow.plot.value)


def test_buttons_that_do_not_fit_the_state_do_nothing(panel):
    for button in (panel.pause, panel.stop):
        button.click()
    assert panel.state == "ready"
    panel.start.click()
    until(lambda: panel.state == "finished")
    for button in (panel.pause, panel.stop):
        button.click()
    assert panel.state == "finished"


def test_a_second_stream_uses_the_loaded_model_and_begins_anew(panel, loads):
    panel.start.click()
    until(lambda: panel.state == "finished")
    panel.ask.click()
    until(lambda: panel.answers.value)
    first = panel.stream
    panel.start.click()
    until(lambda: panel.stream is not first and panel.state == "finished")
    until(lambda: panel.answers.value == "")
    assert len(loads) == 1 and [row["chunk"] for row in panel.stream.rows] == list(range(12))


def test_a_stop_in_a_question_ends_the_stream_and_keeps_the_answer(slow, monkeypatch):
    inside, on = threading.Event(), threading.Event()
    ask = dashboard.VideoStreamingInference.ask
    monkeypatch.setattr(dashboard.VideoStreamingInference, "ask", lambda *a, **k: (inside.set(), on.wait(60), ask(*a, **k))[2])
    slow.start.click()
    slow.on.release()
    until(lambda: slow.stream and slow.stream.processed == 1)
    slow.ask.click()
    slow.on.release()
    assert inside.wait(60)
    first = answering()
    slow.ask.click()  # a second click changes nothing
    until(lambda: answering() == first and slow.ask.disabled)
    slow.stop.click()
    until(lambda: "stopped: " in slow.said.value)
    on.set()
    until(lambda: slow.answers.value and not slow.ask.disabled)
    assert len(slow.stream.answers) == 1
    assert slow.state == "stopped" and slow.stream.processed <= 2


def answering() -> list[threading.Thread]:
    """The threads that ask for a click."""
    return [thread for thread in threading.enumerate() if "_answer" in thread.name]


@pytest.mark.parametrize(
    ("field", "place", "value", "message"),
    [
        ("video", "video", "nowhere.mp4", "no video at .*nowhere.mp4"),
        ("model", "model", "no/such/folder", "no model directory at .*no/such/folder"),
        ("budget", "settings", 0, "MAX_CACHE_TOKENS=0: give a whole number of at least 1"),
        ("fps", "settings", 0.0, "SAMPLE_FPS=0.0: give a positive number of frames per second"),
        ("drop", "settings", 1.0, "DROP_STATIC=1.0: give a share of full scale, from 0"),
        ("height", "settings", -1, "HEIGHT=-1: give a whole number of at least 0"),
    ],
)
def test_an_error_stands_beside_its_field_until_it_is_mended(panel, field, place, value, message):
    before = getattr(panel, field).value
    getattr(panel, field).value = value
    until(lambda: re.search(message, panel.notes[place].value))
    panel.start.click()
    until(lambda: re.search(message, panel.notes[place].value))
    assert panel.state == "ready" and [name for name, shown in panel.notes.items() if shown.value] == [place]
    assert re.search(message, panel.summary())
    getattr(panel, field).value = before
    until(lambda: panel.notes[place].value == "")
    panel.start.click()
    until(lambda: panel.state == "finished")


def test_what_stands_still_is_dropped_from_the_next_start_on(slow):
    slow.frames.value = 6
    slow.start.click()
    slow.on.release()
    until(lambda: slow.stream and slow.stream.processed == 1)
    until(lambda: re.search(r"1 of 4 chunks, 2 s of video, 198 tokens stored, 0 dropped$", text_of(slow.said.value)))
    slow.drop.value = 0.03
    until(lambda: "drop static: from the next start" in slow.notes["settings"].value)
    slow.stop.click()
    until(lambda: slow.state == "stopped")
    slow.start.click()
    slow.on.release(20)
    until(lambda: slow.state == "finished")
    dropped = slow.stream.engine.get_cache_info()["tokens_dropped"]
    assert slow.stream.engine.drop_static == 0.03 and dropped > 0
    until(lambda: text_of(slow.said.value).endswith(f" tokens stored, {dropped} dropped"))
    assert "drop_static 0.03" in slow.plot.value


def text_of(html: str) -> str:
    return re.sub("<[^>]*>", "", html)


def test_a_budget_too_small_for_a_chunk_is_an_error_of_the_budget(panel):
    panel.budget.value = 20
    panel.start.click()
    until(lambda: "raise max_cache_tokens" in panel.notes["settings"].value)
    assert panel.state == "failed"
    panel.budget.value = 250
    until(lambda: panel.notes["settings"].value == "")
    panel.start.click()
    until(lambda: panel.state == "finished")


@pytest.mark.parametrize(
    ("error", "place", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "settings", "lower the budget"),
        (ValueError("frames of a size"), "settings", "frames of a size"),
        (RuntimeError("<b>odd</b>"), "said", "RuntimeError: &lt;b&gt;odd"),
    ],
)
def test_what_ends_a_stream_is_shown(panel, monkeypatch, error, place, text):
    def fail(*_):
        raise error

    monkeypatch.setattr(dashboard.VideoStreamingInference, "append_encoded", fail)
    panel.start.click()
    shown = panel.said if place == "said" else panel.notes[place]
    until(lambda: text in shown.value and "failed" in panel.said.value)


def test_a_video_that_ends_early_is_shown_below_its_field(panel, monkeypatch):
    class Damaged(dashboard.VideoChunks):
        def __iter__(self):
            yield next(iter(super().__iter__()))
            raise ValueError(f"{self.path}: frames 6 to 7 cannot be decoded")

    monkeypatch.setattr(dashboard, "VideoChunks", Damaged)
    panel.start.click()
    until(lambda: "frames 6 to 7" in panel.notes["video"].value and "failed: 1 of 12" in panel.said.value)


@pytest.mark.filterwarnings("ignore:.*the video is cut off")
def test_damage_in_the_video_is_shown_below_its_field(panel, tmp_path):
    panel.video.value = str(cut_clip(tmp_path))
    panel.start.click()
    until(lambda: "finished: " in panel.said.value and "cut off or damaged" in panel.notes["video"].value)


def test_a_live_source_has_no_total(panel, monkeypatch):
    asked = []

    class Live(dashboard.VideoChunks):
        def __init__(self, source, *options):
            asked.append(source)
            super().__init__(dashboard.paths.DATA / "clips" / "short.mp4", *options)
            self.live = True

        def __iter__(self):
            self.live = False  # is read as the file that it is
            yield from super().__iter__()

    monkeypatch.setattr(dashboard, "VideoChunks", Live)
    panel.video.value = "rtsp://camera:554/live"
    panel.start.click()
    until(lambda: "finished: 12 chunks, 12 s of video" in panel.said.value)
    assert asked == ["rtsp://camera:554/live"]
    assert panel.progress.layout.visibility == "hidden"
