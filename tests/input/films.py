"""Video files whose frames show their own number, written with the timestamps that a test asks for."""

import os
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

BITS, HEIGHT, WIDTH = 12, 96, 192
TOP = (200, 60, 30)  # the colour of the upper quarter
FAST = {"crf": "12", "preset": "veryfast"}


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame with `number` in columns of black and white."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        frame[height // 4 :, bit * width // BITS : (bit + 1) * width // BITS] = 255 if number >> bit & 1 else 0
    frame[: height // 4] = TOP
    return frame


def read_number(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    columns = (frame[height * 5 // 8, int((bit + 0.5) * width / BITS)].mean() > 127 for bit in range(BITS))
    return sum(set_ << bit for bit, set_ in enumerate(columns))


def write_film(
    path,
    times: Sequence,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    tick: Fraction = Fraction(1, 90_000),
    rate=30,
    options: dict | None = None,
    container_options: dict | None = None,
    frames: Sequence[np.ndarray] | None = None,
    setup=None,
    sound_s: float = 0.0,
    format: str | None = None,
):
    """Write a film whose frame i is shown at `times[i]` seconds; returns its path.

    frames: other pictures than numbers. setup: called with the stream before anything is encoded. sound_s: seconds of silence
    from 0 on."""
    options = FAST if options is None and codec == "libx264" else options or {}
    with av.open(
        path if hasattr(path, "write") else str(path), "w", format=format, options=container_options or {}
    ) as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
        pictures = [numbered(number) for number in range(len(times))] if frames is None else frames
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pixels
        stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1
        if setup:
            setup(stream)
        sound = container.add_stream("aac", rate=16_000) if sound_s else None
        for first in range(0, int(sound_s * 16_000), 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.rate, silence.pts, silence.time_base = 16_000, first, Fraction(1, 16_000)
            container.mux(sound.encode(silence))
        if sound:
            container.mux(sound.encode())
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(Fraction(time) / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):  # which makes this a real-time thread where it may, as root
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def steady(count: int, rate) -> list[Fraction]:
    """`count` times at `rate` frames per second."""
    return [number / Fraction(rate).limit_denominator(1001) for number in range(count)]


def on_screen(times: Sequence, fps: float) -> list[int]:
    """The numbers of the frames to be taken: the one on screen at each multiple of 1 / fps after the first, each once. The
    last frame counts when a multiple has come by its beginning, or when it stays for a whole 1 / fps, if it stays as long as
    others."""
    step = 1 / Fraction(fps).limit_denominator(10**6)
    chosen, wanted = [], Fraction(times[0])
    while wanted <= times[-1]:
        shown = max(number for number, time in enumerate(times) if time <= wanted)
        if not chosen or shown != chosen[-1]:
            chosen.append(shown)
        wanted += step
    stays = times[-1] - times[-2] if len(times) > 1 else 0
    return chosen if stays < step or chosen[-1] == len(times) - 1 else [*chosen, len(times) - 1]
