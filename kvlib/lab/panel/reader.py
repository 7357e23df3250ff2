"""A video read in a thread of its own, one chunk ahead."""

import threading
import warnings
from collections.abc import Callable
from contextlib import closing, contextmanager

from kvlib.video import VideoChunk, VideoChunks


class ChunkReader:
    """Reads `chunks` one ahead. A camera or a server that sends nothing then holds up neither a question nor a stop.

    `waiting` is the chunk that was read and not yet taken, or None. `ended` is True after the last one was taken; `error` is
    then what ended it, or None. `warning` is the last thing that the reader of the video warned of, or "". notify: called from
    the thread after each change.
    """

    def __init__(self, chunks: VideoChunks, notify: Callable[[], None]):
        self.waiting: VideoChunk | None = None
        self.error: Exception | None = None
        self.warning, self.ended = "", False
        self._chunks, self._notify = chunks, notify
        self._wanted = threading.Semaphore(0)
        self._started = self._closed = False

    def start(self) -> None:
        """Begin to read, on the first call."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._read, daemon=True, name="kvlib-reader").start()

    def take(self) -> VideoChunk:
        """The chunk that waits; the next one is read meanwhile."""
        chunk, self.waiting = self.waiting, None
        self._wanted.release()
        return chunk

    def close(self) -> None:
        """Read no more; the file or the connection is closed as soon as it gives a chunk or an error."""
        self._closed, self.waiting = True, None
        self._wanted.release()

    def _read(self) -> None:
        try:
            with _heard_warnings(self._hear), closing(iter(self._chunks)) as chunks:
                for chunk in chunks:
                    self.waiting = chunk
                    self._notify()
                    self._wanted.acquire()
                    if self._closed:
                        break
        except Exception as error:  # kept: a thread has no caller to raise it to
            self.error = error
        self.ended = True
        self._notify()

    def _hear(self, warning: str) -> None:
        self.warning = warning


@contextmanager
def _heard_warnings(hear: Callable[[str], None]):
    """Give the warnings of kvlib.video, and those of this thread, to `hear` as well as to whoever shows warnings.

    `warnings.catch_warnings(record=True)` would also take away those of all other threads.
    """
    usual, thread = warnings.showwarning, threading.get_ident()

    def show(message, category, filename, *more, **options):
        if threading.get_ident() == thread or "/kvlib/video/" in filename.replace("\\", "/"):
            hear(str(message))
        usual(message, category, filename, *more, **options)

    warnings.filterwarnings("always", module=r"kvlib\.video")  # also for a file that is streamed a second time
    warnings.showwarning = show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = usual
