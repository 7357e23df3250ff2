"""A stream in its thread: started, paused, stopped and asked from another."""

import signal
import threading
import time

import numpy as np
import pytest

from kvlib import EvictionConfig
from kvlib.lab.panel.live import KINDS, LiveStream
from kvlib.lab.report import paths

CLIP = paths.DATA / "clips/short.mp4"
CHUNKS = 12  # of two frames, at two frames per second


class Stepwise(LiveStream):
    """Waits after every chunk until it is let on, so that a test is where it wants to be."""

    def __init__(self, engine, **options):
        self.on = threading.Semaphore(0)
        self.seen = threading.Semaphore(0)
        super().__init__(engine, CLIP, 2, 2.0, self._wait, **options)

    def _wait(self):
        self.seen.release()
        if self.state in ("running", "paused"):
            assert self.on.acquire(timeout=20)


@pytest.fixture
def stream(engine):
    return Stepwise(engine(EvictionConfig(250, position_mode="remap")))


def test_a_stream_runs_to_its_end(engine):
    ends = []
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0, lambda: ends.append(live.state))
    assert live.state == "ready"
    live.start()
    live.wait(60)
    assert (live.state, live.error) == ("finished", None)
    assert ends == ["running"] * CHUNKS + ["finished"]
    assert [row["chunk"] for row in live.rows] == list(range(CHUNKS))
    assert max(row["cache_tokens"] for row in live.rows) <= 250
    assert {row["event"] for row in live.rows} == {"", "eviction"}
    assert live.pictures[0].shape == (36, 72, 3) and live.pictures[0].dtype == np.uint8
    kinds = live.kinds()
    assert (kinds[0], kinds[-1], len(kinds)) == ("sink", "window", CHUNKS)
    assert set(kinds) == {"sink", "window", "evicted"} <= set(KINDS)
    alive = sum(kind != "evicted" for kind in kinds)
    assert alive == len(live.engine.cache_manager.chunks)


def test_a_question_is_answered_mid_stream_and_leaves_it_as_it_was(stream):
    stream.start()
    assert stream.seen.acquire(timeout=20)
    before = stream.engine.cache_manager.fingerprint()
    row = stream.ask("What?", max_new_tokens=4)
    assert stream.engine.cache_manager.fingerprint() == before
    assert stream.answers == [row]
    assert (row["time_s"], row["truth"]) == (stream.rows[0]["time_s"], "A Short Clip")
    assert row["correct"] == (row["answer"] == "A Short Clip")
    stream.on.release(CHUNKS)
    stream.wait(60)
    assert len(stream.rows) == CHUNKS


def test_a_question_does_not_wait_for_more_than_the_chunk_in_flight(engine, monkeypatch):
    """During every chunk a question comes; it must be the next thing that happens, though the stream never rests."""
    live, events, askers = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0), [], []
    append, ask = live.engine.append_video_chunk, live.engine.ask

    def watch(*arguments):
        events.append("chunk")
        askers.append(threading.Thread(target=live.ask, args=("What?", 1)))
        askers[-1].start()
        while not live._questions:  # it is known to wait now
            pass
        return append(*arguments)

    monkeypatch.setattr(live.engine, "append_video_chunk", watch)
    monkeypatch.setattr(live.engine, "ask", lambda *a, **k: events.append("question") or ask(*a, **k))
    live.start()
    live.wait(60)
    for asker in askers:
        asker.join(20)
    assert events == ["chunk", "question"] * CHUNKS


def test_an_interrupt_while_a_question_waits_does_not_stop_the_stream(engine, monkeypatch):
    """ctrl-C in `ask`, which waits for a chunk in flight, in the main thread as in a notebook."""
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0)
    append, main = live.engine.append_video_chunk, threading.main_thread().ident
    inside, interrupted = threading.Event(), threading.Event()

    def interrupt_the_question(*arguments):
        if not inside.is_set():
            inside.set()
            while not live._questions:
                time.sleep(0.001)
            time.sleep(0.05)  # the question waits for this chunk now
            signal.pthread_kill(main, signal.SIGINT)
            assert interrupted.wait(20)
        return append(*arguments)

    monkeypatch.setattr(live.engine, "append_video_chunk", interrupt_the_question)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        live.start()
        assert inside.wait(20)
        with pytest.raises(KeyboardInterrupt):
            live.ask("What?", 1)
    finally:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
    live.wait(20)
    assert (live.state, len(live.rows), live._questions) == ("finished", CHUNKS, set())


def test_pause_start_and_stop(stream):
    stream.start()
    assert stream.seen.acquire(timeout=20)
    stream.pause()
    stream.on.release()
    assert not stream.seen.acquire(timeout=0.5), "a paused stream processes nothing"
    assert (stream.state, len(stream.rows)) == ("paused", 1)
    stream.start()
    assert stream.seen.acquire(timeout=20)
    assert (stream.state, len(stream.rows)) == ("running", 2)
    stream.on.release(CHUNKS)
    stream.stop()
    processed = len(stream.rows)
    assert stream.state == ("stopped" if processed < CHUNKS else "finished")
    stream.start()
    assert len(stream.rows) == processed, "the end is the end"
    assert stream.ask("What?", max_new_tokens=2)["answer"] is not None


def test_what_ends_a_stream_is_kept_and_questions_still_work(engine, monkeypatch):
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0)
    original, calls = live.engine.append_video_chunk, []

    def append(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no memory left")
        return original(*arguments)

    monkeypatch.setattr(live.engine, "append_video_chunk", append)
    live.start()
    live.wait(60)
    assert live.state == "failed" and str(live.error) == "no memory left"
    assert len(live.rows) == 2
    assert live.ask("What?", max_new_tokens=2)["time_s"] == live.rows[-1]["time_s"]


def test_a_question_before_the_first_chunk_is_refused(engine):
    with pytest.raises(ValueError, match="nothing was appended yet"):
        LiveStream(engine(), CLIP, 2, 2.0).ask("What?")
