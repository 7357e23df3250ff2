"""Exceptions raised at any line of kvlib, and copies of engines to raise them in."""

import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import kvlib
from kvlib import VideoStreamingInference

PACKAGE = str(Path(kvlib.__file__).parent)
ERRORS = (KeyboardInterrupt, torch.OutOfMemoryError)
ALL = os.environ.get("ATTACK") == "all"
SEED = int(os.environ.get("ATTACK_SEED", random.randrange(10**6)))  # shown when a test fails


class LineTracer:
    """A trace function that counts the executed lines of kvlib, and raises `error` at those with numbers in `points`."""

    def __init__(self, points: Iterable[int] = (), error: type[BaseException] = KeyboardInterrupt):
        self.points, self.error, self.count, self.places = set(points), error, 0, []

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.count += 1
            if self.count in self.points:
                self.places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                raise self.error("injected")
        return self

    def run(self, action: Callable[[], object]) -> BaseException | None:
        """What `action` raises under the tracer, None for nothing."""
        sys.settrace(self)
        try:
            action()
        except BaseException as error:
            return error
        finally:
            sys.settrace(None)
        return None


def points(lines: int, sample: int, salt: str) -> list[tuple[int, ...]]:
    """Line numbers to raise at: all single ones, and pairs that follow one another, or a random `sample` of them."""
    singles = [(line,) for line in range(1, lines + 1)]
    pairs = [(line, line + gap) for line in range(1, lines + 1) for gap in (1, 2)]
    chosen = singles + pairs
    return chosen if ALL else random.Random(f"{SEED} {salt}").sample(chosen, min(sample, len(chosen)))


def copied(engine: VideoStreamingInference) -> VideoStreamingInference:
    """An engine on the same model with copies of the stream's buffers, and of what its archive in memory keeps."""
    stored_dtype, archive = engine.cache_manager.cache.stored_dtype, engine.cache_manager.archive
    kept = "memory" if archive else None
    other = VideoStreamingInference(engine.model, engine.processor, engine.device, engine.eviction_config, stored_dtype, kept)
    if archive:
        table = archive.index.table
        other.cache_manager.archive.index.table = dataclasses.replace(
            table, rows=table.rows.clone(), owners=table.owners.clone()
        )
    state = engine.cache_manager.state
    buffers = tuple(None if buffer is None else buffer.clone() for buffer in state.buffers)
    other.cache_manager.current.state = dataclasses.replace(state, buffers=buffers)
    return other
