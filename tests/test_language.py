"""The language model against transformers' own forward, and its attention against fp64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache

from kvlib.cache import StreamCache
from kvlib.ops import language as language_module
from kvlib.ops.language import FEW, LENGTHS, LanguageModel, run
from kvlib.ops.positions import text_positions


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


def states_of(model, forward, lengths, device, dtype) -> list[torch.Tensor]:
    """The states of random tokens, so many at a time, over one cache."""
    language, found = model.model.language_model, []
    cache, generator = StreamCache(len(language.layers), 40), torch.Generator().manual_seed(0)
    for length in lengths:
        embeddings = torch.randn(1, length, 64, generator=generator).to(device, dtype)
        start = cache.layers[0].get_seq_length() if found else 0
        found.append(forward(cache.layers, embeddings, text_positions(length, start)).float().cpu())
    return found


@torch.no_grad()
def test_a_cpu_records_nothing(model):
    forward = LanguageModel(model.model.language_model)
    states_of(model, forward, [7] * 3, "cpu", torch.float32)
    assert not forward.recordings


@torch.no_grad()
def test_recordings_are_made_the_second_time_and_the_oldest_forgotten(model, monkeypatch):
    made = []
    monkeypatch.setattr(language_module, "Recording", lambda _, embeddings, *tables: made.append(embeddings.shape[1]) or replay)
    forward, numbers = LanguageModel(model.model.language_model), range(10, 11 + LENGTHS)
    forward.can_record = True

    def replay(layers, embeddings, cos, sin):
        return embeddings.shape[1]

    def ask(tokens, look=None):
        cache = StreamCache(len(forward.language.layers), 40)
        return forward(cache.layers, torch.zeros(1, tokens, 64), text_positions(tokens, 0), look)

    monkeypatch.setattr(language_module, "FEW", numbers[-1])
    assert all(ask(numbers[-1] + 1).shape == (1, numbers[-1] + 1, 64) for _ in range(2)), "many tokens are not recorded"
    assert ask(10).shape == (1, 10, 64) and not made
    assert ask(10) == ask(10) == 10 and made == [10]
    assert ask(10, look=lambda q: None).shape == (1, 10, 64), "who looks sees every layer's queries"
    for tokens in (*numbers, *numbers[1:]):
        ask(tokens)
    assert list(forward.recordings) == list(numbers[1:]) == made[1:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_few_tokens_that_come_back_in_this_number_are_recorded_and_give_the_same_states(model, dtype):
    on_cuda = copy.deepcopy(model).to("cuda", dtype)
    lengths = [7, 300, 7, 300, FEW + 1, 1, 7, FEW + 1, 1, 300, 7, 1, 300]  # in turns, so that one could spoil another
    forward = LanguageModel(on_cuda.model.language_model)
    found = states_of(on_cuda, forward, lengths, "cuda", dtype)
    assert set(forward.recordings) == {7, 300, 1}
    plain = states_of(on_cuda, lambda *a: run(on_cuda.model.language_model, *a), lengths, "cuda", dtype)
    for number, (mine, other) in enumerate(zip(found, plain, strict=True)):
        assert (mine - other).norm() / other.norm() < (1e-2 if dtype == torch.bfloat16 else 1e-5), number
    others = range(10, 10 + LENGTHS)
    states_of(on_cuda, forward, [*others, *others], "cuda", dtype)
    assert set(forward.recordings) == set(others), "the oldest are forgotten"
