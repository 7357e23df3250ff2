"""Streams that wait for a test, live sources, and interrupts, for the tests of the panel."""

import base64
import io
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from PIL import Image

from kvlib.lab.panel.live import LiveStream
from kvlib.lab.report import paths
from kvlib.video import VideoChunk, VideoChunks

CLIP = paths.DATA / "clips/short.mp4"
CHUNKS = 12  # of two frames, at two frames per second


class Stepwise(LiveStream):
    """Waits after every chunk until it is let on, so that a test is where it wants to be."""

    def __init__(self, engine, **options):
        self.on = threading.Semaphore(0)
        self.seen = threading.Semaphore(0)
        super().__init__(engine, CLIP, 2, 2.0, self._pass, **options)

    def _pass(self):
        self.seen.release()
        if self.state in ("running", "paused"):
            assert self.on.acquire(timeout=20)


class Camera(VideoChunks):
    """A live source: chunks of the clip again and again, as quickly as they are taken, and no length."""

    def __init__(self, chunks: int = 10**9):
        super().__init__(CLIP, 2, 2.0)
        self.live, self.left, self.closed = True, chunks, threading.Event()

    def __iter__(self):
        frames = np.random.default_rng(0).integers(0, 256, (2, 56, 84, 3), dtype=np.uint8)
        try:
            for index in range(self.left):
                yield VideoChunk(frames, (index, index + 0.5), 2.0)
        finally:
            self.closed.set()


class Hanging(Camera):
    """A source that gives `chunks` and then nothing, until the test lets it end."""

    def __iter__(self):
        yield from super().__iter__()
        assert self.over.wait(60)

    over = threading.Event()


def cut_clip(folder: Path) -> Path:
    """The clip with its index in front, and then cut off in the middle."""
    whole = folder / "whole.mp4"
    with av.open(str(CLIP)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    content = whole.read_bytes()
    cut = folder / "cut.mp4"
    cut.write_bytes(content[: len(content) * 6 // 10])
    return cut


@contextmanager
def interrupts_raise():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def picture(jpeg: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg))))
