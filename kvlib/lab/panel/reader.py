"""A video read in a thread of its own, one chunk ahead."""

import threading
from collections.abc import Callable

from kvlib.video import VideoChunk, VideoChunks


class ChunkReader:
    """Reads `chunks` one ahead. A camera or a server that sends nothing then holds up neither a question nor a stop.

    `waiting` is the chunk that was read and not yet taken, or None. `ended` is True after the last one was taken; `error` is
    then what ended it, or None. notify: called from the thread after each change.
    """

    def __init__(self, chunks: VideoChunks, notify: Callable[[], None]):
        self.waiting: VideoChunk | None = None
        self.error: Exception | None = None
        self.ended = False
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
            while not self._closed and (chunk := self._chunks.read()) is not None:
                self.waiting = chunk
                self._notify()
                self._wanted.acquire()
        except Exception as error:  # kept: a thread has no caller to raise it to
            self.error = error
        finally:
            self._chunks.close()
        self.ended = True
        self._notify()
