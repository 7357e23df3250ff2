"""The scores of chunks: known values from keys and values made for it, and the same in every position mode."""

import pytest
import torch
from helpers import append_states, processed
from torch.nn.functional import cosine_similarity

from kvlib import EvictionConfig, KVCacheManager
from kvlib.evictor import POSITION_MODES
from kvlib.policies import Importance
from kvlib.policies.scorers import SCORERS


def scored(scorer: str, *chunks: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The score of the last of some chunks, (keys, values) [1, KV heads, n, 4] that two layers have alike."""
    manager = KVCacheManager(2)
    for states in chunks:
        append_states(manager, states, states)
    return SCORERS[scorer](manager.cache, manager.chunks, torch.ones(2))


def test_a_frame_that_repeats_the_last_one_is_redundant(engine, frames):
    streamed = engine(EvictionConfig(400, policy=Importance("temporal_redundancy")))
    for seed in (1, 2, 2, 3):
        streamed.append_video_chunk(frames(2, seed))
    scores = [chunk.score for chunk in streamed.cache_manager.chunks]
    assert scores[2] < min(scores[1], scores[3])


@pytest.mark.parametrize(("direction", "expected"), [(0, 0), (1, 1)])
def test_what_looks_like_the_memory_does_not_surprise(direction, expected):
    memory, new = torch.zeros(1, 2, 20, 4), torch.zeros(1, 2, 10, 4)
    memory[..., 0], new[..., direction] = 2.0, 1.0
    assert scored("surprise", (memory, memory), (new, new)) == pytest.approx(expected)


def test_norm_scorers_follow_the_norms_of_the_newest_chunk():
    ones = torch.ones(1, 2, 10, 4)
    assert scored("value_norm", (ones, 9 * ones), (ones, 3 * ones)) == pytest.approx(6)
    assert scored("key_norm", (9 * ones, ones), (ones, ones)) == pytest.approx(-2)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_are_the_same_in_every_position_mode(engine, frames, scorer):
    """Nothing is evicted yet. With "unrotated" the stored keys have no rotation, and must be compared without one."""
    scores = {}
    for mode in POSITION_MODES:
        manager = processed(engine, frames, EvictionConfig(400, policy=Importance(scorer), position_mode=mode), 6).cache_manager
        scores[mode] = [chunk.score for chunk in manager.chunks]
    assert len(set(scores["keep"])) == 6
    for mode in POSITION_MODES:
        assert scores[mode] == pytest.approx(scores["keep"], abs=1e-5)


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_redundancy_is_the_cosine_of_the_unrotated_keys(engine, frames, mode):
    config, raw = EvictionConfig(400, policy=Importance("temporal_redundancy"), position_mode=mode), []
    streamed = engine(config)
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out: raw.append(out[0].unflatten(-1, (2, 16))))
        for layer in streamed.model.model.language_model.layers
    ]
    for seed in (1, 2, 3):
        streamed.append_video_chunk(frames(2, seed))
    for hook in hooks:
        hook.remove()
    pairs = zip(raw[3:6], raw[6:9], strict=True)  # the three layers' keys of the second and third chunk
    expected = -torch.stack([cosine_similarity(old, new, -1).mean() for old, new in pairs]).mean().item()
    assert streamed.cache_manager.chunks[2].score == pytest.approx(expected, abs=1e-5)
