"""Seconds on a device, by events on CUDA and by the host's clock on a CPU, and the peak of its memory."""

import gc
import statistics
import time
from contextlib import contextmanager

import torch


class Clock:
    """Measures the seconds of named stages."""

    def __init__(self, device: torch.device):
        self.device, self.spans = device, []

    def now(self):
        """This moment on the device: a recorded CUDA event, or the host's clock in seconds."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def stage(self, name: str):
        """The body of the `with` statement is a stage."""
        began = self.now()
        yield
        self.spans.append((name, began, self.now()))

    @contextmanager
    def watching(self, owner, attribute: str, name: str):
        """Inside the `with` statement every call of `owner.attribute` is a stage."""
        original = getattr(owner, attribute)

        def call(*args, **kwargs):
            with self.stage(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, call)
        try:
            yield
        finally:
            setattr(owner, attribute, original)

    def seconds(self) -> dict[str, list[float]]:
        """The seconds of all stages since the last call, by name."""
        found: dict[str, list[float]] = {}
        synchronize(self.device)
        for name, began, ended in self.spans:
            span = began.elapsed_time(ended) / 1e3 if self.device.type == "cuda" else ended - began
            found.setdefault(name, []).append(span)
        self.spans = []
        return found


def timed(work, device: torch.device, repeats: int = 10) -> float:
    """Median seconds of `work()` over `repeats` calls, after three calls to warm up."""
    clock = Clock(device)
    for repeat in range(repeats + 3):
        if repeat == 3:
            clock.seconds()
        with clock.stage("work"):
            work()
    return statistics.median(clock.seconds()["work"])


def synchronize(device: torch.device) -> None:
    """Wait for all work on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes allocated on a CUDA device since `reset_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def free_memory() -> None:
    """Give back all memory that no object holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
