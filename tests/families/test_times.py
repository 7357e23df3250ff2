"""The times that Qwen3-VL is told are those that its own processor writes."""

import pytest
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from kvlib.encoding import grid_times


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("fps", [0.5, 2.0, 3.0])
def test_a_grid_has_the_mean_time_of_its_first_and_last_frame(frames, fps):
    theirs = Qwen3VLProcessor._calculate_timestamps(None, list(range(frames)), fps, 2)
    found = grid_times(frames, fps, 100 + (frames - 1) / fps, -(-frames // 2))
    assert found == pytest.approx([100 + time for time in theirs])


def test_by_hand():
    assert grid_times(5, 2.0, 12.0, 3) == [10.25, 11.25, 12.0]
