"""Budgets: the memory limit, the search within it, and the file that remembers what it found."""

import gc
import weakref
from dataclasses import replace

import psutil
import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import budgets
from kvlib.lab.video import calibration
from kvlib.lab.video.source import VideoSource

CLIP = paths.DATA / "clips" / "short.mp4"  # 12 s: 12 chunks of 2 frames at 2 per second, 720 tokens with the tiny model
BYTES = 3 * 2 * 2 * 16 * 4  # per token of the tiny model: layers, keys and values, KV heads, head dim, fp32
CPU = torch.device("cpu")


def held_by(budget: int) -> int:
    """Tokens of the buffers of a budget: a tenth more, at most 16,384, and room of 512 for a question."""
    return budget + min(budget // 10, 16_384) + 512


@pytest.fixture
def chunk(model, processor) -> calibration.Forecast:
    """The clip's chunk: 98 tokens the first, 60 each of the others."""
    made = calibration.forecast(model.config, processor, (2, 280, 560), 2.0, 1000, CPU)
    assert (made.first_tokens, made.tokens, made.token_bytes) == (98, 60, BYTES)
    return made


@pytest.fixture
def make(model, processor):
    """Makes engines, of which only one may be alive at a time; `made` has the budgets."""
    alive = []

    def start(budget: int) -> VideoStreamingInference:
        gc.collect()
        assert not [engine for engine in alive if engine() is not None], "the engine of the last try still holds memory"
        engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(budget, position_mode="keep"))
        alive.append(weakref.ref(engine))
        start.made.append(budget)
        return engine

    start.made = []
    return start


@pytest.mark.parametrize("tokens", [1500, 2500])
def test_the_search_ends_within_two_percent_of_the_limit(make, chunk, tokens):
    limit = tokens * BYTES
    largest = max(budget for budget in range(98, tokens) if held_by(budget) <= tokens)
    found = budgets.find_limit(make, VideoSource(CLIP), chunk, limit)
    assert largest * 0.98 <= found.budget <= largest
    assert len(found.tried) <= 4 and make.made == found.tried["budget"].tolist()
    assert found.tried.set_index("budget")["held"][found.budget]
    assert (found.tried[found.tried["held"]]["peak_bytes"] <= limit).all()
    assert f"({limit:,} bytes) ends it" in found.ended


def test_a_short_video_begins_again_until_the_buffers_have_been_full(make, chunk):
    found = budgets.find_limit(make, VideoSource(CLIP), chunk, 2500 * BYTES)
    assert found.budget > 720 * 2, "more than the whole clip has"
    last = found.tried.set_index("budget").loc[found.budget]
    assert 98 + 60 * (last["chunks"] - 1) > held_by(found.budget)
    assert last["chunks_in_window"] == 1 + (found.budget - 98) // 60


def test_a_source_that_has_run_dry_is_named_and_not_asked_for_ever():
    class Dry:
        passes = 0

        def chunks(self, label):
            self.passes += 1
            yield from [(0, "a"), (1, "b")] if self.passes < 3 else []

    chunks = budgets.Repeated(Dry()).chunks("")
    assert [next(chunks) for _ in range(4)] == [(0, "a"), (1, "b"), (2, "a"), (3, "b")]
    with pytest.raises(ValueError, match="gives no more frames"):
        next(chunks)


@pytest.mark.parametrize("most_tokens", [700, 1300, 1750])
def test_a_limit_that_bytes_do_not_predict_is_found_too(make, chunk, monkeypatch, most_tokens):
    """A device that runs out before the buffers do, as by fragmentation: it holds no budget above `most_tokens`."""

    def start(budget: int):
        engine = make(budget)
        append = engine.append_video_chunk

        def failing(*given):
            if budget > most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return append(*given)

        engine.append_video_chunk = failing
        return engine

    found = budgets.find_limit(start, VideoSource(CLIP), chunk, 2500 * BYTES)
    assert found.budget <= most_tokens and len(found.tried) <= budgets.MOST_TRIES
    assert set(found.tried["outcome"]) == {"held", "out of memory"}
    failed = found.tried[~found.tried["held"]]["budget"].min()
    assert f"{failed:,} tokens ran out of it" in found.ended
    if failed - found.budget > budgets.TOLERANCE * failed:
        assert f"the search ended after {budgets.MOST_TRIES} tries" in found.ended
    else:
        assert found.budget >= most_tokens * 0.96


def test_memory_that_ends_in_the_question_counts(make, chunk):
    def start(budget: int):
        engine = make(budget)

        def failing(*arguments, **options):
            raise torch.OutOfMemoryError("CUDA out of memory")

        engine.ask = failing
        return engine

    found = budgets.find_limit(start, VideoSource(CLIP), chunk, 2500 * BYTES)
    assert found.budget is None and "does not even hold the lowest budget" in found.ended
    assert len(found.tried) == 1


def test_no_budget_is_tried_beyond_what_the_model_was_trained_for(make, chunk):
    found = budgets.find_limit(make, VideoSource(CLIP), chunk, 2500 * BYTES, most=700)
    assert found.budget == 700 == max(make.made)
    assert found.ended == "more than 700 tokens are not tried: the model was not trained for more"
    found = budgets.find_limit(make, VideoSource(CLIP), chunk, 1500 * BYTES, most=5000)
    assert found.budget < 900 and "memory limit" in found.ended, "memory ends first"


def test_a_memory_that_holds_nothing_is_said(make, chunk):
    found = budgets.find_limit(make, VideoSource(CLIP), chunk, 600 * BYTES)
    assert found.budget is None and make.made == []
    assert "does not even hold" in found.ended


@pytest.mark.parametrize("tokens", [1, 500, 511, 513, 1000, 180_000, 180_736, 180_737, 442_000])
def test_the_budget_of_a_buffer_is_the_largest_that_its_size_allows(tokens):
    budget = budgets.budget_within(tokens)
    assert budget == 0 or held_by(budget) <= tokens
    assert held_by(budget + 2) > tokens


def test_buffers_are_as_long_as_the_search_takes_them_to_be(engine):
    for budget in (600, 130_000, 400_000):
        assert engine(EvictionConfig(budget)).cache_manager.state.capacity == held_by(budget)


def test_a_first_budget_leaves_something_to_evict_and_fits(chunk):
    huge = 10**12
    assert budgets.first_budget("a", chunk, 10_000, huge, 0) == 130_000
    assert budgets.first_budget(str(paths.READER), chunk, 10_000, huge, 0) == 800
    large = replace(chunk, first_tokens=800, tokens=790)
    assert budgets.first_budget("a", large, 3, huge, 0) == 800 + 4 * 790
    assert budgets.first_budget(str(paths.READER), large, 3, huge, 0) == 2500, "not more than the reader was trained for"
    assert budgets.first_budget("a", chunk, 100, huge, 0) == 100 * 60 // 2
    assert budgets.first_budget("a", chunk, 3, huge, 0) == 98 + 4 * 60, "room for a few chunks"
    limit = 100 + held_by(3000) * BYTES
    assert budgets.first_budget("a", chunk, 10_000, limit, 100) == pytest.approx(2000, abs=1), (
        "two thirds of what fits beside the weights"
    )


def test_a_budget_without_room_for_two_chunks_is_refused(chunk):
    budgets.check_room(158, chunk)
    with pytest.raises(ValueError, match=r"MAX_CACHE_TOKENS=157: .*2 frames of 560x280 take 158 tokens; give at least that"):
        budgets.check_room(157, chunk)


def test_a_budget_found_is_the_default_of_its_model_and_device(tmp_path):
    folder = str(tmp_path)
    assert budgets.choose_budget(0, "a", CPU, folder)[0] == 130_000
    assert budgets.choose_budget(0, str(paths.READER), CPU, folder)[0] == 800
    budgets.save_budget(700, "a", CPU, folder)
    budgets.save_budget(800, "b", CPU, folder)
    budgets.save_budget(900, "a", CPU, folder)
    assert budgets.choose_budget(0, "a", CPU, folder)[0] == 900
    assert "02_oom_free" in budgets.choose_budget(0, "a", CPU, folder)[1]
    assert budgets.choose_budget(0, "b", CPU, folder)[0] == 800
    assert budgets.choose_budget(0, "c", CPU, folder)[0] == 130_000
    assert budgets.choose_budget(50, "a", CPU, folder) == (50, "given")


def test_the_reader_gets_no_budget_outside_its_training_unless_it_is_given(tmp_path):
    reader, folder = str(paths.READER), str(tmp_path)
    budgets.save_budget(5000, reader, CPU, folder)
    budget, source = budgets.choose_budget(0, reader, CPU, folder)
    assert budget == 2500 == budgets.most_tokens(reader) and "the most that the reader was trained for" in source
    budgets.save_budget(1100, reader, CPU, folder)
    assert budgets.choose_budget(0, reader, CPU, folder)[0] == 1100
    assert budgets.choose_budget(5000, reader, CPU, folder) == (5000, "given; the reader was trained for at most 2500 tokens")
    assert budgets.most_tokens("owner/model") is None


def test_the_cpu_limit_is_only_a_number():
    assert budgets.cap_memory(1.5, CPU) == 1.5 * 2**20
    assert budgets.cap_memory(0, CPU) == budgets.cap_memory(0, CPU, str(paths.READER)) == budgets.CPU_CACHE_LIMIT
    free = psutil.virtual_memory().available
    assert 0.3 * free < budgets.cap_memory(0, CPU, "owner/model") < 0.7 * free


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_capped_on_a_device_named_without_its_number():
    assert budgets.cap_memory(0, torch.device("cuda")) == budgets.CARD_LIMIT
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(budgets.CARD_LIMIT + 2**30, dtype=torch.uint8, device="cuda")
