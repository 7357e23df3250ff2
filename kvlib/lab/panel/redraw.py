"""Drawing in a thread of its own, which takes a bounded share of the time from the stream."""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

EVERY = 1.0  # seconds at least between two drawings of a running stream
SHARE = 0.01  # of the time, at most, for them


class Redraw:
    """Calls `draw()` soon after each `now()`, and again and again while `active()`.

    All widgets are written in this one thread. The methods may be called from any thread.
    """

    def __init__(self, draw: Callable[[], None], active: Callable[[], bool]):
        self._draw, self._active = draw, active
        self._requests: SimpleQueue = SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="kvlib-panel").start()

    def now(self) -> None:
        self._requests.put(True)

    def close(self) -> None:
        self._requests.put(False)

    def _run(self) -> None:
        pause = None  # until the first request
        while self._requested(pause):
            began = time.thread_time()
            try:
                self._draw()
            except Exception:  # the next drawing may succeed
                logging.getLogger(__name__).exception("the panel could not be drawn")
            pause = pause_after(time.thread_time() - began) if self._active() else None

    def _requested(self, pause: float | None) -> bool:
        """Wait for a request, or so many seconds. False when the panel is closed; requests that have piled up count as one."""
        try:
            going_on = self._requests.get(timeout=pause)
            while going_on:
                going_on = self._requests.get_nowait()
            return False
        except Empty:
            return True


def pause_after(seconds: float) -> float:
    """Seconds to wait after a drawing that took so many of computing."""
    return max(EVERY, seconds / SHARE)
