"""The figure of what `drop_static` keeps shows the given data."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from drawn import legend_texts, line
from PIL import Image

from kvlib.lab.figures import dropping_plots

COUNTS = pd.DataFrame(
    [(2, 0.0, 57.0), (2, 0.03, 57.0), (8, 0.03, 22.0), (8, 0.0, 52.0)], columns=["chunk_frames", "drop_static", "tokens_per_s"]
)


def kept(grids: int) -> pd.DataFrame:
    """2 x 3 merged patches in each grid: all of the first, and of later ones the patch in the lower right corner."""
    rows = [(g, r, c, int(g == 0 or (r, c) == (1, 2))) for g in range(grids) for r in range(2) for c in range(3)]
    return pd.DataFrame(rows, columns=["grid", "row", "column", "kept"])


def picture(grids: int) -> tuple[str, np.ndarray]:
    """Frames of 20 x 30 pixels of random colours, which are no multiple of the patches', and the same as a PNG."""
    frames = np.random.default_rng(0).integers(0, 200, (grids, 20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, 30, 3)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode(), frames


@pytest.mark.parametrize("grids", [1, 4, 6])
def test_what_is_dropped_is_faded_and_what_is_kept_is_as_it_was(grids):
    encoded, frames = picture(grids)
    fig = dropping_plots.plot_kept(COUNTS, kept(grids), encoded, 0.03)
    panels = [axis for axis in fig.axes if axis.images and axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["grid 0: all 6"] + [f"grid {g}: 1 of 6" for g in range(1, grids)]
    shown = [np.asarray(axis.images[0].get_array()) for axis in panels]
    assert (shown[0] == frames[0]).all()
    for number in range(1, grids):
        assert (shown[number][10:, 20:] == frames[number][10:, 20:]).all()
        for part in (np.s_[:10], np.s_[:, :20]):
            expected = 255 - 0.2 * (255 - frames[number][part].astype(float))
            assert np.abs(shown[number][part] - expected).max() <= 0.5


def test_the_points_are_tokens_over_the_threshold():
    fig = dropping_plots.plot_kept(COUNTS, kept(1), picture(1)[0], 0.03)
    below = fig.axes[-1]
    (few, few_tokens), (many, many_tokens) = (line(below, f"{frames} frames a chunk") for frames in (2, 8))
    assert (few_tokens, many_tokens) == ([57.0, 57.0], [52.0, 22.0])
    assert few == pytest.approx([-0.05, 0.95]) and many == pytest.approx([0.05, 1.05]), "beside each other"
    assert [text.get_text() for text in below.get_xticklabels()] == ["0", "0.03"]
    assert below.lines[0].get_linestyle() == "None"
    assert legend_texts(fig) == ["2 frames a chunk", "8 frames a chunk"]
    assert "threshold 0.03" in fig.get_suptitle()
