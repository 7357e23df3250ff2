"""A stream in its thread: started, paused, stopped and asked from another."""

import threading

import numpy as np
import pytest
from PIL import Image
from streams import CHUNKS, CLIP, Camera, interrupt, interrupts_raise, picture, until

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.figures.dropping_plots import FADED
from kvlib.lab.panel.live import CHANGES, KINDS, LiveStream
from kvlib.video import VideoChunks


def test_a_stream_runs_to_its_end(engine):
    ends = []
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0, lambda: ends.append(live.state))
    assert (live.state, live.total) == ("ready", CHUNKS)
    live.start()
    live.wait(60)
    until(lambda: ends[-1:] == ["finished"])
    assert (live.state, live.error, live.trouble, live.processed) == ("finished", None, None, CHUNKS)
    assert ends == ["running"] * CHUNKS + ["finished"]
    assert [row["chunk"] for row in live.rows] == list(range(CHUNKS))
    assert max(row["cache_tokens"] for row in live.rows) <= 250
    assert {row["event"] for row in live.rows} == {"", "eviction"}
    kinds = live.kinds()
    assert (kinds[0], kinds[CHUNKS - 1], len(kinds)) == ("sink", "window", CHUNKS)
    assert set(kinds.values()) == {"sink", "window", "evicted"} <= set(KINDS)
    alive = sum(kind != "evicted" for kind in kinds.values())
    assert alive == len(live.engine.cache_manager.chunks)


def test_pictures_are_the_last_frames_of_their_chunks(engine):
    live = LiveStream(engine(), CLIP, 2, 2.0)
    live.start()
    live.wait(60)
    for index, chunk in enumerate(VideoChunks(CLIP, 2, 2.0)):
        small = picture(live.pictures[index])
        assert small.shape == (36, 72, 3)
        whole = Image.fromarray(chunk.frames[-1]).resize((72, 36), Image.Resampling.BOX)
        assert np.abs(small.astype(int) - np.asarray(whole)).mean() < 6


def test_with_dropping_a_picture_shows_every_grid_and_fades_what_is_dropped(model, processor, monkeypatch):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(400), drop_static=0.03)
    encode, encoded = engine.encode, []
    monkeypatch.setattr(engine, "encode", lambda *given: encoded.append(encode(*given)) or encoded[-1])
    live = LiveStream(engine, CLIP, 6, 2.0)
    live.start()
    live.wait(60)
    assert len(encoded) == live.processed == 4, "the vision tower sees every chunk once"
    assert live.rows[-1]["tokens_dropped"] == engine.get_cache_info()["tokens_dropped"] > 0
    for index, chunk in enumerate(VideoChunks(CLIP, 6, 2.0)):
        shown = picture(live.pictures[index]).astype(float)
        assert shown.shape == (36, 3 * 72 + 2 * 2, 3)
        for grid, kept in enumerate(encoded[index].kept.numpy()):
            whole = np.asarray(Image.fromarray(chunk.frames[2 * grid + 1]).resize((72, 36), Image.Resampling.BOX))
            clear = np.kron(kept, np.ones((-(-36 // kept.shape[0]), -(-72 // kept.shape[1]))))[:36, :72, None] > 0
            expected = np.where(clear, whole, 255 - FADED * (255.0 - whole))
            assert np.abs(shown[:, 74 * grid : 74 * grid + 72] - expected).mean() < 5


def test_frames_are_made_smaller_but_never_larger(engine, monkeypatch):
    def heights(height: int) -> set:
        live, seen = LiveStream(engine(), CLIP, 2, 2.0, height=height), set()
        encode = live.engine.encode
        monkeypatch.setattr(live.engine, "encode", lambda f, fps: seen.add(f.shape[1:3]) or encode(f, fps))
        live.start()
        live.wait(60)
        return seen

    own = next(iter(VideoChunks(CLIP, 2, 2.0))).frames.shape[1:3]
    assert heights(70) == {(70, 140)} and own == (280, 560)
    assert heights(0) == heights(10_000) == {own}


def test_a_question_is_answered_mid_stream_and_leaves_it_as_it_was(stream):
    stream.start()
    assert stream.seen.acquire(timeout=20)
    stream.pause()  # the thread that answers must have returned from the first chunk
    stream.on.release()
    before = stream.engine.cache_manager.fingerprint()
    row = stream.ask("What?", max_new_tokens=4)
    assert stream.engine.cache_manager.fingerprint() == before
    assert list(stream.answers) == [row]
    assert (row["time_s"], row["truth"], stream.processed) == (stream.rows[0]["time_s"], "A Short Clip", 1)
    assert row["correct"] == (row["answer"] == "A Short Clip")
    stream.on.release(CHUNKS)
    stream.start()
    stream.wait(60)
    assert stream.processed == CHUNKS


def test_a_question_does_not_wait_for_more_than_the_chunk_in_flight(engine, monkeypatch):
    """During every chunk a question comes; it must be the next thing that happens, though the stream never rests."""
    live, events, askers = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0), [], []
    append, ask = live.engine.append_encoded, live.engine.ask

    def watch(*arguments):
        events.append("chunk")
        askers.append(threading.Thread(target=live.ask, args=("What?", 1)))
        askers[-1].start()
        until(lambda: live.questions_waiting)
        return append(*arguments)

    monkeypatch.setattr(live.engine, "append_encoded", watch)
    monkeypatch.setattr(live.engine, "ask", lambda *a, **k: events.append("question") or ask(*a, **k))
    live.start()
    live.wait(60)
    for asker in askers:
        asker.join(20)
    assert events == ["chunk", "question"] * CHUNKS


def test_an_interrupt_while_a_question_waits_does_not_stop_the_stream(engine, monkeypatch):
    """ctrl-C in `ask`, which waits for a chunk in flight, in the main thread as in a notebook. The question is not asked."""
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0)
    append = live.engine.append_encoded
    inside, interrupted, asked = threading.Event(), threading.Event(), []

    def interrupt_the_question(*arguments):
        if not inside.is_set():
            inside.set()
            until(lambda: live.questions_waiting)  # for this chunk
            interrupt()
            assert interrupted.wait(20)
        return append(*arguments)

    monkeypatch.setattr(live.engine, "append_encoded", interrupt_the_question)
    monkeypatch.setattr(live.engine, "ask", lambda *a, **k: asked.append(a))
    with interrupts_raise():
        live.start()
        assert inside.wait(20)
        with pytest.raises(KeyboardInterrupt):
            live.ask("What?", 1)
    interrupted.set()
    live.wait(20)
    assert (live.state, live.processed, live.questions_waiting, asked) == ("finished", CHUNKS, 0, [])


def test_interrupts_at_any_moment_of_many_questions_leave_the_stream_alive(engine):
    live = LiveStream(engine(EvictionConfig(250)), Camera())
    live.start()
    until(lambda: live.processed)
    ended, interrupts = threading.Event(), 0

    def disturb():
        random = np.random.default_rng(0)
        while not ended.wait(random.uniform(0, 0.02)):
            interrupt()

    with interrupts_raise():
        disturber = threading.Thread(target=disturb)
        try:
            disturber.start()
            while interrupts < 60:
                try:
                    live.ask("What?", 1)
                except KeyboardInterrupt:
                    interrupts += 1
        finally:
            while disturber.is_alive():
                try:
                    ended.set()
                    disturber.join()
                except KeyboardInterrupt:
                    pass
    then = live.processed
    until(lambda: live.processed > then)
    assert live.ask("What?", 1)["time_s"] > 0
    live.stop()
    live.wait(20)
    assert live.state == "stopped"


def test_pause_start_and_stop(stream):
    stream.start()
    assert stream.seen.acquire(timeout=20)
    stream.pause()
    stream.on.release()
    assert not stream.seen.acquire(timeout=0.5), "a paused stream processes nothing"
    assert (stream.state, stream.processed) == ("paused", 1)
    stream.start()
    assert stream.seen.acquire(timeout=20)
    assert (stream.state, stream.processed) == ("running", 2)
    stream.stop()  # in its second chunk
    stream.on.release(CHUNKS)
    stream.wait(20)
    assert (stream.state, stream.processed) == ("stopped", 2)
    stream.start()
    assert (stream.state, stream.processed) == ("stopped", 2), "the end is the end"
    assert stream.ask("What?", max_new_tokens=2)["answer"] is not None


def test_a_pause_in_the_last_chunk_ends_as_the_stream_does(stream):
    stream.start()
    for _ in range(CHUNKS - 1):
        assert stream.seen.acquire(timeout=20)
        stream.on.release()
    assert stream.seen.acquire(timeout=20)  # the last chunk; the thread waits in its notice
    stream.pause()
    assert stream.state == "paused"
    stream.on.release()
    stream.wait(20)
    assert (stream.state, stream.processed) == ("finished", CHUNKS)


def test_a_call_in_any_state_leads_to_a_state_that_is_known():
    """All pairs, so that no call brings an ended stream back to life."""
    states = {"ready", "running", "paused", "finished", "stopped", "failed"}
    for moves in CHANGES.values():
        assert moves.keys() | set(moves.values()) <= states
        assert not moves.keys() & {"finished", "stopped", "failed"}


def test_calls_from_many_threads_leave_one_stream(engine, monkeypatch):
    live = LiveStream(engine(EvictionConfig(250)), CLIP, 2, 2.0)
    append, inside, most = live.engine.append_encoded, [], []

    def watch(*arguments):
        inside.append(1)
        most.append(len(inside))
        result = append(*arguments)
        inside.pop()
        return result

    monkeypatch.setattr(live.engine, "append_encoded", watch)
    calls = [threading.Thread(target=call) for call in (live.start, live.start, live.pause, live.start) * 10]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    live.start()
    live.wait(60)
    assert (live.state, live.processed, max(most)) == ("finished", CHUNKS, 1)
    assert [row["chunk"] for row in live.rows] == list(range(CHUNKS))
