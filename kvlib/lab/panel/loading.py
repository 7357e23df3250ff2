"""A model being loaded: what is done now, how far it is, and an end before it is done."""

import threading
import time

from tqdm import std
from transformers.utils.logging import set_tqdm_hook

from kvlib.checkpoint import check_checkpoint
from kvlib.lab.study import runs

ONE_AT_A_TIME = threading.Lock()  # transformers changes global settings while it loads


class Cancelled(Exception):
    """Loading was cancelled."""


class Loading:
    """One attempt to open a video and to load a model. Another thread may call `progress` and `cancel`."""

    def __init__(self):
        self._step, self._cancelled = "", False
        self._began = time.monotonic()

    def progress(self) -> str:
        return f"{self._step}, {time.monotonic() - self._began:.0f} s"

    def cancel(self) -> None:
        """Let the other methods raise `Cancelled`: before the next step, or before the next tensor is read."""
        self._cancelled = True

    def enter(self, step: str) -> None:
        """Begin a step. Raises `Cancelled`."""
        if self._cancelled:
            raise Cancelled
        self._step = step

    def check(self, path: str) -> None:
        """Raise what `check_checkpoint` raises, and `Cancelled`."""
        self.enter(f"looking at {path}")
        check_checkpoint(path)

    def load(self, path: str):
        """Model and processor of the checkpoint at `path`. Raises what `runs.load` raises, and `Cancelled`."""
        self.enter(f"waiting until another model is loaded, then {path}")
        with ONE_AT_A_TIME:
            self.enter(f"opening the weights of {path}")
            thread = threading.get_ident()

            def bar(usual, arguments, options):
                return (_Counted(self, path, *arguments, **options | {"disable": True})
                        if threading.get_ident() == thread else usual(*arguments, **options))  # fmt: skip

            previous = set_tqdm_hook(bar)
            try:
                loaded = runs.load(path)
            finally:
                set_tqdm_hook(previous)
        self.enter("starting")
        return loaded


class _Counted(std.tqdm):
    """In the place of transformers' progress bars: draws nothing and tells `loading` how many tensors were read."""

    def __init__(self, loading: Loading, path: str, *arguments, **options):
        self.loading, self.path = loading, path
        super().__init__(*arguments, **options)

    def __iter__(self):
        for done, item in enumerate(self.iterable):
            self.loading.enter(f"{done} of {self.total} tensors read from {self.path}")
            yield item
