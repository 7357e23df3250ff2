"""A model being loaded: its progress, and an end before it is done. The model is the embedded reader."""

import threading

import pytest
from safetensors import safe_open
from transformers.utils import logging

from kvlib.lab.panel.loading import ONE_AT_A_TIME, Cancelled, Loading
from kvlib.lab.report import paths

READER = str(paths.READER)


class Watched(Loading):
    """Remembers its steps, and is cancelled when `last` of them were made."""

    def __init__(self, last: int = 10**9):
        self.steps, self.last = [], last
        super().__init__()

    def enter(self, step):
        super().enter(step)
        self.steps.append(step)
        if len(self.steps) == self.last:
            self.cancel()


def test_every_tensor_that_is_read_is_progress():
    loading = Watched()
    model, processor = loading.load(READER)
    with safe_open(paths.READER / "model.safetensors", "pt") as stored:
        total = len(stored.keys())
    counted = [step for step in loading.steps if "tensors read" in step]
    assert counted == [f"{done} of {total} tensors read from {READER}" for done in range(total)]
    assert sum(parameter.numel() for parameter in model.parameters()) > 7e6 and processor.tokenizer("a")
    assert loading.progress().startswith("starting, 0 s") or "starting" in loading.progress()


def test_a_cancel_ends_it_at_the_next_tensor_and_another_load_can_follow():
    loading = Watched(last=20)
    with pytest.raises(Cancelled):
        loading.load(READER)
    assert len(loading.steps) == 20
    assert not ONE_AT_A_TIME.locked()
    bar = logging.tqdm([], disable=True)
    assert not isinstance(bar, Watched) and "loading" not in vars(bar), "transformers has its own progress bars again"
    assert Watched().load(READER)


def test_progress_bars_of_other_threads_stay_their_own():
    """While a panel loads in its thread, a cell may load a model too."""
    bars = []

    class Other(Watched):
        def enter(self, step):
            super().enter(step)
            if len(self.steps) == 20:
                other = threading.Thread(target=lambda: bars.append(list(logging.tqdm([1, 2], disable=True))))
                other.start()
                other.join()

    loading = Other()
    loading.load(READER)
    assert bars == [[1, 2]]
    assert not any("of 2 tensors" in step for step in loading.steps)


def test_a_checkpoint_is_checked_before_its_weights_are_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        Loading().check(str(tmp_path))
    cancelled = Loading()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.check(READER)
