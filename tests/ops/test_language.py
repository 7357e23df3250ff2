"""The language model against transformers' own forward."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import transformers_forward

from kvlib.cache import Tail
from kvlib.ops import language as language_module
from kvlib.ops.graphs import GraphPool
from kvlib.ops.language import MAX_GRAPH_TOKENS, LanguageModel, LayerGraphs, run
from kvlib.ops.positions import text_positions
from kvlib.state import StreamState


def new_tail(language, capacity: int = 4096) -> Tail:
    return Tail(StreamState(buffers=(None,) * len(language.layers), capacity=capacity), None)


def forward_into(tail: Tail, forward, embeddings: torch.Tensor) -> torch.Tensor:
    """Append text tokens to `tail`: the states that `forward(layers, embeddings, positions)` gives."""
    tokens, start = embeddings.shape[1], tail.next_position
    states = forward(tail.layers, embeddings, text_positions(tokens, start))
    tail.advance(tokens, start + tokens)
    return states


def states_of(language, forward, lengths, device="cpu", dtype=torch.float32) -> list[torch.Tensor]:
    """The states of random tokens, so many at a time, over one tail."""
    tail, generator = new_tail(language), torch.Generator().manual_seed(0)
    sizes = ((1, length, 64) for length in lengths)
    embeddings = (torch.randn(size, generator=generator).to(device, dtype) for size in sizes)
    return [forward_into(tail, forward, part).float().cpu() for part in embeddings]


@pytest.mark.parametrize("lengths", [[7], [1], [13, 1], [13, 7, 1, 60]])
@torch.no_grad()
def test_states_and_cache_are_those_of_transformers(model, lengths):
    language = model.model.language_model
    ours, theirs = new_tail(language), new_tail(language)
    for length in lengths:
        embeddings = torch.randn(1, length, 64, generator=torch.Generator().manual_seed(length))
        expected = forward_into(theirs, lambda *a: transformers_forward(language, *a), embeddings)
        found = forward_into(ours, lambda *a: run(language, *a), embeddings)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert [layer.get_seq_length() for layer in ours.layers] == [sum(lengths)] * 3
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        torch.testing.assert_close(mine.keys, other.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, other.values, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_keys_are_never_repeated_for_their_query_heads(model, monkeypatch):
    seen, original = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *o: seen.append(k.shape[1]) or original(q, k, v, *o))
    language = model.model.language_model
    states_of(language, lambda *a: run(language, *a), [7, 1])
    assert seen == [2] * 6


@torch.no_grad()
def test_the_queries_of_every_layer_are_shown_with_the_keys_they_are_compared_with(model):
    language, seen, tail = model.model.language_model, [], new_tail(model.model.language_model)
    forward_into(tail, lambda *a: run(language, *a), torch.randn(1, 9, 64))
    run(language, tail.layers, torch.randn(1, 4, 64), text_positions(4, 9), lambda q, keys: seen.append((q, keys)))
    assert [(q.shape, keys.shape) for q, keys in seen] == [((1, 4, 4, 16), (1, 2, 13, 16))] * 3
    for (_, keys), layer in zip(seen, tail.layers, strict=True):
        assert torch.equal(keys, layer.keys)


@torch.no_grad()
def test_graphs_are_used_from_the_second_time_on_for_few_tokens(model, monkeypatch):
    captured = []

    class Graph:
        nbytes = 1

        def __init__(self, _language, embeddings, cos, _sin):
            captured.append(embeddings.shape[1])
            assert cos.shape == (1, embeddings.shape[1], 16)

        def __call__(self, layers, embeddings, cos, sin, tokens, on_queries):
            assert embeddings.shape[1] >= tokens
            return "replayed"

    monkeypatch.setattr(language_module, "LayerGraphs", Graph)
    monkeypatch.setattr(language_module, "MAX_GRAPH_TOKENS", 12)
    monkeypatch.setattr(language_module, "BLOCK", 4)
    language, pool = model.model.language_model, GraphPool()
    forward = LanguageModel(language, pool)

    def ask(tokens, on_queries=None):
        return forward(new_tail(language).layers, torch.zeros(1, tokens, 64), text_positions(tokens, 0), on_queries)

    assert [ask(13) == "replayed" for _ in range(3)] == [False] * 3, "many tokens are not captured"
    assert [ask(12) == "replayed" for _ in range(3)] == [False, True, True]
    assert ask(12, on_queries=lambda q, keys: None) == "replayed", "a graph shows its queries too"
    assert ask(10) == "replayed", "9 to 12 tokens share a graph"
    assert [ask(tokens) == "replayed" for tokens in (8, 5, 7)] == [False, True, True]
    assert [ask(1) == "replayed" for _ in range(2)] == [False, True], "a single token is not padded"
    assert captured == [12, 8, 1] and pool.nbytes() == 3


@torch.no_grad()
def test_padding_changes_neither_states_nor_cache(model):
    """What is appended before a graph is captured is padded as in the graph."""
    language, lengths = model.model.language_model, [7, 64, 65, 1, 30]
    plain, padded = new_tail(language), new_tail(language)
    for length in lengths:
        embeddings = torch.randn(1, length, 64, generator=torch.Generator().manual_seed(length))
        expected = forward_into(plain, lambda *a: run(language, *a), embeddings)
        found = forward_into(padded, lambda *a: LanguageModel(language, GraphPool())(*a), embeddings)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, other in zip(padded.layers, plain.layers, strict=True):
        assert mine.get_seq_length() == sum(lengths)
        torch.testing.assert_close(mine.keys, other.keys, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_a_pool_nothing_is_captured(model, monkeypatch):
    monkeypatch.setattr(language_module, "LayerGraphs", lambda *_: pytest.fail("a capture"))
    language = model.model.language_model
    states_of(language, LanguageModel(language, None), [7] * 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_captured_forwards_give_the_same_states(model, dtype, monkeypatch):
    language, captured = copy.deepcopy(model).to("cuda", dtype).model.language_model, []
    monkeypatch.setattr(language_module, "LayerGraphs", lambda *a: captured.append(a[1].shape[1]) or LayerGraphs(*a))
    many = MAX_GRAPH_TOKENS + 1
    lengths = [7, 300, 7, 300, many, 1, 20, many, 1, 310, 7, 1, 300]  # in turns, so that one could spoil another
    found = states_of(language, LanguageModel(language, GraphPool()), lengths, "cuda", dtype)
    assert captured == [64, 320, 1]
    plain = states_of(language, lambda *a: run(language, *a), lengths, "cuda", dtype)
    for number, (mine, other) in enumerate(zip(found, plain, strict=True)):
        assert (mine - other).norm() / other.norm() < (1e-2 if dtype == torch.bfloat16 else 1e-5), number
