"""How a stream ends, and what it keeps: errors, damage, sources that hang, streams without end."""

import threading
import time

import pytest
from streams import CHUNKS, CLIP, Camera, Hanging, cut_clip, until

from kvlib import EvictionConfig
from kvlib.lab.panel import live as live_module
from kvlib.lab.panel.live import LiveStream


def test_what_ends_a_stream_is_kept_and_questions_still_work(engine, monkeypatch):
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0)
    original, calls = live.engine.append_encoded, []

    def append(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no memory left")
        return original(*arguments)

    monkeypatch.setattr(live.engine, "append_encoded", append)
    live.start()
    live.wait(60)
    assert (live.state, live.error_from, str(live.error)) == ("failed", "engine", "no memory left")
    assert live.error.__traceback__ is None, "its frames would hold the chunk"
    assert live.processed == 2
    assert live.ask("What?", max_new_tokens=2)["time_s"] == live.rows[-1]["time_s"]


def test_a_video_that_cannot_be_read_further_ends_the_stream(engine):
    class Damaged(Camera):
        def __iter__(self):
            yield from super().__iter__()
            raise ValueError("frames 6 to 7 cannot be decoded")

    live = LiveStream(engine(), Damaged(3))
    live.start()
    live.wait(60)
    assert (live.state, live.error_from, live.processed) == ("failed", "video", 3)
    assert "frames 6 to 7" in str(live.error)


@pytest.mark.filterwarnings("ignore:.*the video is cut off")
def test_a_damaged_file_is_told_each_time(engine, tmp_path):
    """Two streams of one file: Python shows a warning of the same text only once."""
    path = cut_clip(tmp_path)
    for _ in range(2):
        live = LiveStream(engine(), path, 2, 2.0)
        assert live.trouble is None
        live.start()
        live.wait(60)
        assert (live.state, live.error) == ("finished", None) and 0 < live.processed < CHUNKS
        assert "cut.mp4: the video is cut off or damaged" in live.trouble


def test_a_source_that_hangs_holds_up_neither_questions_nor_a_stop(engine):
    Hanging.over.clear()
    source = Hanging(2)
    live = LiveStream(engine(), source)
    assert live.total is None
    live.start()
    until(lambda: live.processed == 2)
    assert live.ask("What?", 1)["time_s"] == 1.5
    live.stop()
    began = time.monotonic()
    live.wait(20)
    assert live.state == "stopped" and time.monotonic() - began < 20, "the wait has ended by itself"
    Hanging.over.set()


def test_a_stop_closes_the_source(engine):
    source = Camera()
    live = LiveStream(engine(EvictionConfig(250)), source)
    live.start()
    until(lambda: live.processed > 3)
    live.stop()
    assert source.closed.wait(20)


def test_an_endless_stream_keeps_a_bounded_number_of_rows_and_pictures(engine, monkeypatch):
    monkeypatch.setattr(live_module, "LAST_PICTURES", 20)
    monkeypatch.setattr(live_module, "MAX_ANSWERS", 3)
    monkeypatch.setattr("kvlib.lab.panel.record.MAX_ROWS", 32)
    live = LiveStream(engine(EvictionConfig(100)), Camera(150))
    live.start()
    until(lambda: live.processed)
    for _ in range(5):
        live.ask("What?", 1)
    live.wait(60)
    assert (live.state, live.processed) == ("finished", 150)
    assert len(live.rows) <= 32 and live.rows[-1]["chunk"] == 149
    assert sorted(live.pictures) == [0, *range(130, 150)], "the sink and the newest"
    assert live.kinds().keys() == live.pictures.keys()
    assert len(live.answers) == 3


def test_a_question_before_the_first_chunk_is_refused_and_the_stream_can_start(engine):
    live = LiveStream(engine(), CLIP, 2, 2.0)
    with pytest.raises(ValueError, match="nothing was appended yet"):
        live.ask("What?")
    live.start()
    live.wait(60)
    assert live.processed == CHUNKS


def test_a_stream_that_has_ended_holds_no_thread(engine):
    before = set(threading.enumerate())
    live = LiveStream(engine(), CLIP, 2, 2.0)
    live.start()
    live.wait(60)
    until(lambda: not [thread for thread in {*threading.enumerate()} - before if thread.name.startswith("kvlib-")])
