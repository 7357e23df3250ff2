"""The loop that the benchmarks compare with does the same computation as the engine, for every family."""

import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3VLTextConfig

from kvlib.lab.report import paths

sys.path.insert(0, str(paths.ROOT / "benchmarks"))

import logits  # noqa: E402
import measure  # noqa: E402
import methods  # noqa: E402


@torch.no_grad()
def test_the_plain_loop_is_the_same_computation_for_every_family(model, processor):
    found = logits.logits_against_fp32(model, processor, torch.device("cpu"), (160, 256))
    assert max(found[name]["relative_error"] for name in ("kvlib", "plain")) < 1e-5


def test_random_states_have_the_head_size_of_the_configuration():
    """Qwen3-VL-4B has heads of 128 numbers, and 2560 / 32 is 80."""
    text = Qwen3VLTextConfig(
        hidden_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_hidden_layers=1, vocab_size=8
    )
    made = SimpleNamespace(config=SimpleNamespace(text_config=text), device="cpu", dtype=torch.float32)
    ((keys, values),) = methods.random_states(made, 5)
    assert keys.shape == values.shape == (1, 2, 5, 32)


def test_a_long_stream_has_early_and_late_chunks(model, processor):
    with pytest.raises(ValueError, match="249 chunks are too few"):
        measure.long_stream(model, processor, torch.zeros(2, 96, 96, 3, dtype=torch.uint8), 4, 249, torch.device("cpu"))
