"""The language model against transformers' own forward, and its attention against fp64."""

import pytest
import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache

from kvlib.cache import StreamCache
from kvlib.language import run
from kvlib.positions import text_positions


def transformers_forward(language, layers, embeddings, positions, look=None) -> torch.Tensor:
    """What `run` does, by transformers' own forward; it shows nobody its queries."""
    cache = Cache(layers=layers)
    return language(
        inputs_embeds=embeddings, position_ids=positions[:, None], past_key_values=cache, use_cache=True
    ).last_hidden_state


@pytest.mark.parametrize("lengths", [[7], [1], [13, 1], [13, 7, 1, 60]])
@torch.no_grad()
def test_states_and_cache_are_those_of_transformers(model, lengths):
    language = model.model.language_model
    ours, theirs = (StreamCache(len(language.layers), 40) for _ in range(2))
    start = 0
    for length in lengths:
        embeddings = torch.randn(1, length, 64, generator=torch.Generator().manual_seed(length))
        positions = text_positions(length, start)
        expected = transformers_forward(language, theirs.layers, embeddings, positions)
        torch.testing.assert_close(run(language, ours.layers, embeddings, positions), expected, rtol=1e-4, atol=1e-4)
        start += length
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        torch.testing.assert_close(mine.keys, other.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, other.values, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_keys_are_never_repeated_for_their_query_heads(model, monkeypatch):
    seen, original = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *o: seen.append(k.shape[1]) or original(q, k, v, *o))
    language = model.model.language_model
    cache = StreamCache(len(language.layers), 40)
    for length in (7, 1):
        run(language, cache.layers, torch.randn(1, length, 64), text_positions(length, cache.get_seq_length()))
    assert seen == [2] * 6
