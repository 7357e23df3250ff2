"""Attention over a long cache against fp64, on the CPU and, where there is one, on a CUDA device with its own kernels."""

import pytest
import torch
from helpers import attention_in_fp64, attention_states, relative_error

from kvlib.ops import attention
from kvlib.ops.attention import chunk_attention, fold, merge, unfold

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("past", [0, 13, 1300])
@pytest.mark.parametrize("new", [1, 7, 539])
def test_against_fp64(new, past):
    inputs = attention_states(6, 2, new, past, 16)
    assert relative_error(chunk_attention(*inputs), attention_in_fp64(*inputs)) < 1e-6


@needs_cuda
@pytest.mark.parametrize("past", [0, 13, 8192, 130_000])
@pytest.mark.parametrize("new", [1, 7, 5389])
def test_against_fp64_on_cuda(new, past):
    inputs = attention_states(16, 2, new, past, 128, "cuda", torch.bfloat16)
    assert relative_error(chunk_attention(*inputs), attention_in_fp64(*inputs)) < 0.01


@needs_cuda
@pytest.mark.parametrize("new", [2, 7, 700])
def test_no_mask_on_cuda(new, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *_: pytest.fail("the plain path"))
    chunk_attention(*attention_states(16, 2, new, 3000, 128, "cuda", torch.bfloat16))


@needs_cuda
def test_a_view_of_a_larger_buffer_on_cuda():
    q, keys, values = attention_states(16, 2, 700, 3000, 128, "cuda", torch.bfloat16)
    wide = [torch.full((1, 2, 9000, 128), float("nan"), device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    for buffer, stored in zip(wide, (keys, values), strict=True):
        buffer[:, :, 100:3800] = stored
    found = chunk_attention(q.transpose(1, 2).contiguous().transpose(1, 2), *(buffer[:, :, 100:3800] for buffer in wide))
    assert relative_error(found, attention_in_fp64(q, keys, values)) < 0.01


@pytest.mark.parametrize("past", [1, 7, 1300])
def test_past_and_own_chunk_merged_are_attention_over_both(past, monkeypatch):
    """The path of a GPU, with a plain kernel that also returns its log-sum-exp in the place of flash attention."""

    def plain(q, keys, values, causal=False):
        group = q.shape[1] // keys.shape[1]
        scores = q @ keys.repeat_interleave(group, 1).transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        return scores.softmax(-1) @ values.repeat_interleave(group, 1), scores.logsumexp(-1)

    calls = []
    monkeypatch.setattr(attention, "flash", lambda *a, **k: calls.append(a[0].shape) or plain(*a, **k))
    monkeypatch.setattr(attention, "has_flash", lambda *a: True)
    inputs = attention_states(6, 2, 39, past, 16)
    assert relative_error(chunk_attention(*inputs), attention_in_fp64(*inputs)) < 1e-6
    assert calls == [(1, 6, 39, 16), (1, 2, 3 * 39, 16)], "the past is read once for all heads that share its keys"


@pytest.mark.parametrize(("past", "apart"), [(5, 0), (8, 8), (29, 24)])
def test_the_last_keys_of_the_past_go_with_the_chunk(past, apart, monkeypatch):
    """The path of a Hopper GPU, with plain kernels: cuDNN's gets lengths that are multiples of 16 queries and 8 keys here."""

    def plain(q, keys, values, *options, causal=False):
        group = q.shape[1] // keys.shape[1]
        scores = q @ keys.repeat_interleave(group, 1).transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:  # the last query is aligned with the last key
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + keys.shape[2] - q.shape[2])
            scores = scores.masked_fill(hidden, float("-inf"))
        return scores.softmax(-1) @ values.repeat_interleave(group, 1), scores.logsumexp(-1)

    calls = []

    def cudnn(q, keys, *rest):
        calls.append((q.shape[2], keys.shape[2]))
        return plain(q, keys, *rest)

    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_cudnn_attention", cudnn)
    monkeypatch.setattr(attention, "flash", lambda q, keys, values, causal: plain(q, keys, values, causal=causal))
    monkeypatch.setattr(attention, "has_flash", lambda *a: True)
    monkeypatch.setattr(attention, "uses_cudnn", lambda q: True)
    monkeypatch.setattr(attention, "CUDNN_QUERIES", 16)
    monkeypatch.setattr(attention, "CUDNN_KEYS", 8)
    inputs = attention_states(6, 2, 39, past, 16)
    assert relative_error(chunk_attention(*inputs), attention_in_fp64(*inputs)) < 1e-6
    assert calls == ([(48, apart)] if apart else [])


def test_merging_far_apart_sums_does_not_overflow():
    one, other = torch.ones(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    sums = torch.tensor([[[500.0, -500.0]]])
    assert merge(one, sums, other, -sums).tolist() == [[[[1.0] * 4, [0.0] * 4]]]


def test_folding_and_back():
    q, keys, _ = attention_states(6, 2, 5, 0, 4)
    assert torch.equal(unfold(fold(q, keys), q), q)
    assert torch.equal(fold(q, keys)[0, 1, :5], q[0, 3])
