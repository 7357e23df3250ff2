"""Figures of re-rotated keys show the given data."""

import pandas as pd
import pytest
from drawn import legend_texts, line

from kvlib.lab.figures import position_plots


def test_attention_bars_add_up_to_one():
    regions = {"sink": 0.5, "history": 0.2, "recent": 0.2, "question": 0.1}
    rows = [
        dict(position_mode=mode, layer=layer, head=head, region=region, share=share)
        for mode in ("keep", "remap")
        for layer in range(2)
        for head in range(3)
        for region, share in regions.items()
    ]
    fig = position_plots.plot_attention(pd.DataFrame(rows))
    assert [axis.get_title() for axis in fig.axes] == ["keep", "remap"]
    tops = [bar.get_y() + bar.get_height() for bar in fig.axes[1].containers[-1]]
    assert tops == pytest.approx([1, 1])
    assert legend_texts(fig) == list(regions)


def test_drift_shows_both_ways():
    drift = pd.DataFrame(
        [(10, "chain", 0.01), (100, "chain", 0.1), (10, "original", 0.002)], columns=["turns", "method", "error"]
    )
    fig = position_plots.plot_drift(drift)
    assert line(fig.axes[0], "chain") == ([10, 100], [0.01, 0.1])
    assert line(fig.axes[0], "original") == ([10], [0.002])
