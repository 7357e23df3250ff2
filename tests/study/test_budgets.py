"""Budgets: the memory limit, tuning within it, and the file that remembers what was found safe."""

import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import budgets
from kvlib.lab.video.source import VideoSource

CLIP = paths.DATA / "clips" / "short.mp4"  # 12 s: 12 chunks of 2 frames at 2 per second
BYTES = 3 * 2 * 2 * 16 * 4  # per token of the tiny model: layers, keys and values, KV heads, head dim, fp32


@pytest.mark.parametrize(
    ("limit_tokens", "best", "verdicts"),
    [
        (2000, 400, ["room left", "room left", "room left"]),  # room at every budget: up to the highest
        (900, 300, ["keep"]),  # (300 * 1.1 + 512) / 900 lies between 21/24 and 23/24: "keep" has no copies of original keys
        (860, 250, ["out of memory", "room left", "keep"]),  # 300 fits, but takes more than 23/24 of the limit
        (800, 200, ["out of memory", "keep"]),
        (600, None, ["out of memory", "out of memory"]),
    ],
)
def test_tuning_goes_up_while_there_is_room_and_down_when_memory_ends(model, processor, limit_tokens, best, verdicts):
    tuned, found = budgets.tune_budget(
        lambda budget: VideoStreamingInference(model, processor, "cpu", EvictionConfig(budget, position_mode="keep")),
        VideoSource(CLIP), (200, 300, 400), limit_tokens * BYTES,
    )  # fmt: skip
    assert tuned["verdict"].tolist() == verdicts
    assert found == best


def test_a_budget_found_is_the_default_of_its_model_and_device(tmp_path):
    cpu, folder = torch.device("cpu"), str(tmp_path)
    assert budgets.choose_budget(0, "a", cpu, folder)[0] == 130_000
    assert budgets.choose_budget(0, str(paths.READER), cpu, folder)[0] == budgets.READER_BUDGETS[1]
    budgets.save_budget(700, "a", cpu, folder)
    budgets.save_budget(800, "b", cpu, folder)
    budgets.save_budget(900, "a", cpu, folder)
    assert budgets.choose_budget(0, "a", cpu, folder)[0] == 900
    assert "02_oom_free" in budgets.choose_budget(0, "a", cpu, folder)[1]
    assert budgets.choose_budget(0, "b", cpu, folder)[0] == 800
    assert budgets.choose_budget(0, "c", cpu, folder)[0] == 130_000
    assert budgets.choose_budget(50, "a", cpu, folder) == (50, "given")


def test_the_cpu_limit_is_only_a_number():
    assert budgets.cap_memory(1.5, torch.device("cpu")) == 1.5 * 2**20
    assert budgets.cap_memory(0, torch.device("cpu")) == budgets.CPU_CACHE_LIMIT


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_capped_on_a_device_named_without_its_number():
    assert budgets.cap_memory(0, torch.device("cuda")) == budgets.CARD_LIMIT
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(budgets.CARD_LIMIT + 2**30, dtype=torch.uint8, device="cuda")
