"""Reading ahead in a thread, by one item."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Handover:
    """The place for one item between the thread that makes items and the one that uses them.

    leave_out: called with an item that was not fetched when the next one came, which then takes its place; None = the next one
    waits.
    """

    def __init__(self, items: Iterator, leave_out: Callable | None):
        self.items, self.leave_out = items, leave_out
        self.changed, self.waiting, self.ended, self.stopped = threading.Condition(), [], False, False
        self.error: BaseException | None = None

    def make(self) -> None:
        """Make all items, in the thread of whoever calls."""
        try:
            for item in self.items:
                if not self._put(item):
                    break
        except BaseException as error:  # handed to the thread that uses the items
            self.error = error
        finally:
            self.items.close()
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def take(self) -> list:
        """The next item, in a list; an empty list when there is none any more. Raises what making them has raised."""
        with self.changed:
            while not self.waiting and not self.ended:
                self.changed.wait()
            taken, self.waiting = self.waiting, []
            self.changed.notify_all()
        if not taken and self.error is not None:
            raise self.error
        return taken

    def stop(self) -> None:
        """Let the thread that makes items end."""
        with self.changed:
            self.stopped, self.waiting = True, []
            self.changed.notify_all()

    def _put(self, item) -> bool:
        with self.changed:
            if self.waiting and self.leave_out is not None:
                self.leave_out(self.waiting.pop())
            while self.waiting and not self.stopped:
                self.changed.wait()
            self.waiting = [] if self.stopped else [item]
            self.changed.notify_all()
            return not self.stopped


def read_ahead(items: Iterator[Item], leave_out: Callable[[Item], None] | None = None) -> Iterator[Item]:
    """`items`, made in a thread of their own: one is made while another waits, and no more than that. See `Handover`."""
    handover = Handover(items, leave_out)
    threading.Thread(target=handover.make, name="read ahead", daemon=True).start()
    try:
        while taken := handover.take():
            yield taken[0]
    finally:
        handover.stop()
