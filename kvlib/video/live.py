"""Frames of a source that plays in its own time, and that is connected to again when it breaks off."""

import time
from collections.abc import Iterator
from fractions import Fraction

from kvlib.video.decoding import Decoder
from kvlib.video.opening import opened, without_frame
from kvlib.video.sampling import SECOND, Timed

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0  # between two attempts to connect again; each wait is twice the last
GIVE_UP_S = 60.0  # without a frame
TICK = Fraction(1, 90_000)  # seconds: the resolution of MPEG's timestamps


class LiveFrames:
    """Iterates over the frames of a live source: `Timed`, from 0 seconds on.

    After a break the times go on by the clock: the break counts as long as it took. A pipe, and a source that says how long it
    is, end where their frames end. Raises ConnectionError when the source does not answer at first, when it answers but gives
    no frame, and later when it has given none for `GIVE_UP_S`."""

    def __init__(self, source: str):
        self.source = source
        self._last: int | None = None
        self._arrived = self._wait = 0.0

    def __iter__(self) -> Iterator[Timed]:
        while True:
            try:
                container, stream = opened(self.source)
            except (ConnectionError, ValueError) as error:
                if self._last is None:
                    raise
                self._pause(error)
                continue
            with container:
                ends = container.duration is not None or "://" not in self.source
                decoder = Decoder(container, stream)
                yield from self._connected(decoder)
            if self._last is None:
                raise without_frame(self.source, decoder.error or "the connection was closed")
            if ends:
                return
            self._pause(decoder.error or "the connection was closed")

    def _connected(self, decoder: Decoder) -> Iterator[Timed]:
        shift = None
        for frame in decoder:
            now = time.monotonic()
            if shift is None:
                gap = 0 if self._last is None else round((now - self._arrived) * SECOND)
                shift = (self._last or 0) + gap - frame.time
            self._last, self._arrived, self._wait = frame.time + shift, now, FIRST_WAIT_S
            yield Timed(self._last, frame.duration, frame.picture)

    def _pause(self, reason) -> None:
        """Wait before the next attempt, or give up."""
        if time.monotonic() - self._arrived > GIVE_UP_S:
            raise ConnectionError(
                f"{self.source} has given no frame for {GIVE_UP_S:g} s ({reason}): check that the source is on"
            )
        time.sleep(self._wait)
        self._wait = min(2 * self._wait, LONGEST_WAIT_S)
