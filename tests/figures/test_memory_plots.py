"""Figures of what is stored show the given data."""

import numpy as np
import pandas as pd
import pytest
from drawn import CHUNKS, legend_texts, line

from kvlib.lab.figures import memory_plots


def test_memory_marks_every_eviction_and_the_end():
    fig = memory_plots.plot_memory(CHUNKS, budget_tokens=250, limit_bytes=300 * 6144)
    tokens, size = fig.axes
    assert line(tokens, "no eviction") == ([0, 1, 2], [100, 200, 300])
    band = line(tokens, "eviction (2)")[0]
    assert [x for x in band if x == x] == [1.5, 2.5, 2.5, 3.5], "half a chunk to both sides of chunks 2 and 3"
    assert line(size, "sink + window")[1] == pytest.approx([n * 6144 / 2**20 for n in (100, 200, 200, 200)])
    assert size.get_ylabel() == "keys and values (MiB)"
    assert tokens.collections[0].get_offsets().tolist() == [[2, 300]]
    assert {"budget 250", "out of memory", "eviction (2)", "limit 1.76 MiB"} <= set(legend_texts(fig))
    assert len(legend_texts(fig)) == len(set(legend_texts(fig)))


def test_large_caches_are_shown_in_gib():
    large = CHUNKS.assign(cache_bytes=CHUNKS["cache_bytes"] * 10_000)
    assert memory_plots.plot_memory(large, 250).axes[1].get_ylabel() == "keys and values (GiB)"


def test_sinks_and_increments():
    configurations = ["2 frames", "4 frames"]
    increments = pd.DataFrame(
        [{"configuration": c, "chunk": i, "new_tokens": 70 * (k + 1)} for k, c in enumerate(configurations) for i in (0, 1)]
    )
    sinks = pd.DataFrame({"configuration": configurations, "sink_tokens": [190, 330]})
    fig = memory_plots.plot_sinks(increments, sinks)
    assert [bar.get_width() for bar in fig.axes[0].patches] == [190, 330]
    assert line(fig.axes[1], "4 frames") == ([0, 1], [140, 140])
    assert "a constant 128" in legend_texts(fig)


def test_the_timeline_shows_the_living_chunks():
    timeline = pd.DataFrame([("a", 0, 0), ("a", 1, 0), ("a", 1, 1), ("b", 0, 0)], columns=["contender", "moment", "alive"])
    fig = memory_plots.plot_timeline(timeline)
    assert [axis.get_title() for axis in fig.axes] == ["a", "b"]
    assert np.asarray(fig.axes[0].images[0].get_array()).tolist() == [[1, 1], [0, 1]], "chunks upward, moments to the right"
    assert np.asarray(fig.axes[1].images[0].get_array()).tolist() == [[1, 0], [0, 0]]
    assert fig.axes[0].images[0].get_extent() == [-0.5, 1.5, -0.5, 1.5]


def test_every_column_of_the_timeline_has_its_numbers():
    timeline = pd.DataFrame([(name, 0, 0) for name in "abcde"], columns=["contender", "moment", "alive"])
    fig = memory_plots.plot_timeline(timeline)
    shown = [axis.get_visible() and axis.xaxis.get_tick_params()["labelbottom"] for axis in fig.axes]
    assert shown == [False, False, True, True, True, False]
