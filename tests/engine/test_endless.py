"""Streams that go on far past 2**17 positions: memory stays as it is, and answers stay those of small positions."""

import pytest
import torch
from helpers import next_logits

from kvlib import EvictionConfig

FAR = 3 * 2**17


@pytest.mark.parametrize("policy", ["sink_window", "uniform"])
def test_remapped_positions_grow_without_end_and_without_harm(engine, frames, policy):
    """At 0.002 frames per second a temporal grid is 2000 positions after the last; a chunk of eight frames has four."""
    remap, compact = (engine(EvictionConfig(400, policy=policy, position_mode=mode)) for mode in ("remap", "compact"))
    held, compared = set(), 0
    for number in range(80):
        chunk = remap.encode(frames(8, number), fps=0.002)
        info = remap.append_encoded(chunk)
        compact.append_encoded(chunk)
        assert [span.index for span in remap.cache_manager.chunks] == [span.index for span in compact.cache_manager.chunks]
        if remap.cache_manager.evictor.total_evictions > 20:
            held.add(info["cache_bytes"])
        if number % 8 == 7:
            torch.testing.assert_close(next_logits(remap), next_logits(compact), rtol=1e-4, atol=1e-4)
            compared += 1
    torch.testing.assert_close(next_logits(remap), next_logits(compact), rtol=1e-4, atol=1e-4)
    assert compared > 5
    assert compact.cache_manager.next_position < 2**17
    if policy == "sink_window":  # "uniform" gives up chunks of which copies are kept, and moves the window
        assert remap.cache_manager.next_position > FAR
        assert len(held) == 1, "bytes are constant once the budget is full"
