"""Which frames of a video are given to the model: the one on screen at each wanted time, none twice."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple, TypeVar

Picture = TypeVar("Picture")
TOLERANCE = Fraction(1, 2000)  # seconds: containers that count milliseconds have rounded the times
SHORT_DISORDER = 1  # seconds by which a timestamp may lie before the last one without beginning a new count


class Timed(NamedTuple):
    """Something shown from `time` on for `duration`, in seconds from the start of the video; duration 0 = not known."""

    time: Fraction
    duration: Fraction
    picture: object


def sampled(frames: Iterable[Timed], fps: float, time_base: Fraction) -> Iterator[Timed]:
    """Of `frames` in order of time, those on screen at 0, 1 / fps, 2 / fps, ... seconds after the first one, each once.

    The video ends with its last frame. For how long that one is shown is not known in most files: it is given when a wanted
    time has come by its beginning, or when it is known to stay for a whole sampling interval. time_base: of the timestamps;
    half of it, up to `TOLERANCE`, is taken for rounding."""
    rate, tolerance = Fraction(fps).limit_denominator(10**6), min(time_base / 2, TOLERANCE)
    wanted, current, first = 0, None, None  # wanted: the number of the next wanted time
    for frame in frames:
        first = frame.time if first is None else first
        passed = max(wanted, math.ceil((frame.time - first - tolerance) * rate))  # wanted times before this frame
        if current is not None and passed > wanted:
            yield current
        current, wanted = frame, passed
    if current is not None:
        due = wanted <= (current.time - first + tolerance) * rate
        if due or current.duration * rate >= 1:
            yield current


def in_order(frames: Iterable[Timed]) -> Iterator[Timed]:
    """`frames` with times that only grow. A frame a little before the last one is left out: it would never be seen. One far
    before it begins a new count, as in recordings put together from several: it follows the last one by an interval."""
    shift, last, interval = Fraction(0), None, Fraction(1, 25)
    for frame in frames:
        time = frame.time + shift
        if last is not None and time <= last:
            if last - time < SHORT_DISORDER:
                continue
            shift += last + interval - time
            time = last + interval
        if last is not None:
            interval = min(time - last, Fraction(1))
        last = time
        yield frame._replace(time=time)
