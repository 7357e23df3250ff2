"""A panel on the tiny model, and a stream that waits for a test."""

import threading

import pytest
from streams import Stepwise

from kvlib import EvictionConfig
from kvlib.lab.panel import dashboard, redraw
from kvlib.lab.panel.dashboard import Dashboard
from kvlib.lab.study import runs


@pytest.fixture
def loads(model, processor, monkeypatch):
    """Counts what is loaded, in the place of the models of these paths."""
    loads = []
    monkeypatch.setattr(runs, "load", lambda path: loads.append(path) or (model, processor))
    return loads


@pytest.fixture
def panel(loads, monkeypatch):
    monkeypatch.setattr(redraw, "EVERY", 0.02)
    monkeypatch.setattr(redraw, "SHARE", 1.0)
    made = Dashboard("data/reader", "data/clips/short.mp4", 250)
    yield made
    made.close()


@pytest.fixture
def slow(panel, monkeypatch):
    """A panel whose stream takes a chunk whenever the test lets it by `on`. `begun` has an item for every chunk that it takes
    or waits to take."""
    monkeypatch.setattr(dashboard.VideoStreamingInference, "append_encoded", slowly(panel))
    return panel


def slowly(panel):
    append, panel.on, panel.begun = dashboard.VideoStreamingInference.append_encoded, threading.Semaphore(0), []

    def wait_and_append(*arguments):
        panel.begun.append(1)
        assert panel.on.acquire(timeout=60)
        return append(*arguments)

    return wait_and_append


@pytest.fixture
def stream(engine):
    return Stepwise(engine(EvictionConfig(250, position_mode="remap")))
