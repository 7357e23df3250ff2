"""Which frames of a video are given to the model: the one on screen at each wanted time, none twice.

Times are whole nanoseconds, from the start of the video: exact enough for every container, and quick to compare.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

SECOND = 10**9
TOLERANCE = SECOND // 2000  # containers that count milliseconds have rounded the times
SHORT_DISORDER = SECOND  # a timestamp may lie so much before the last one without beginning a new count
USUAL_INTERVAL = SECOND // 25


class Timed(NamedTuple):
    """A frame that is shown from `time` on for `duration` nanoseconds, 0 = not known; `picture()` gives uint8 RGB [H, W, 3]."""

    time: int
    duration: int
    picture: Callable[[], np.ndarray] | None


def sampled(frames: Iterable[Timed], fps: float, time_base: Fraction) -> Iterator[Timed]:
    """Of `frames` in order of time, those on screen at 0, 1 / fps, 2 / fps, ... seconds after the first one, each once.

    The video ends with its last frame. For how long that one is shown is not known in most files: it is given when a wanted
    time has come by its beginning, or when it is known to stay for a whole sampling interval. time_base: of the timestamps, in
    seconds; half of it, up to `TOLERANCE`, is taken for rounding."""
    rate, tolerance = Fraction(fps).limit_denominator(10**6), min(math.floor(time_base * SECOND / 2), TOLERANCE)
    times, per = rate.numerator, rate.denominator * SECOND
    wanted, current, first = 0, None, None  # wanted: the number of the next wanted time
    for frame in frames:
        if first is None:
            first = frame.time
        passed = -((first + tolerance - frame.time) * times // per)  # rounded up: wanted times before this frame
        if passed > wanted:
            if current is not None:
                yield current
            wanted = passed
        current = frame
    if current is not None:
        due = wanted * per <= (current.time - first + tolerance) * times
        if due or current.duration * times >= per:
            yield current


def in_order(frames: Iterable[Timed]) -> Iterator[Timed]:
    """`frames` with times that only grow. A frame a little before the last one is left out: it would never be seen. One far
    before it begins a new count, as in recordings put together from several: it follows the last one by an interval."""
    shift, last, interval = 0, None, USUAL_INTERVAL
    for frame in frames:
        time = frame.time + shift
        if last is not None:
            if time <= last:
                if last - time < SHORT_DISORDER:
                    continue
                shift += last + interval - time
                time = last + interval
            interval = min(time - last, SECOND)
        last = time
        yield Timed(time, frame.duration, frame.picture)
