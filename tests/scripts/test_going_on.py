"""Going on with a training that was interrupted, here or elsewhere."""

import sys

import pytest
import torch

from kvlib.lab.report import paths

sys.path.insert(0, str(paths.ROOT / "data"))

from training import loop  # noqa: E402
from training.history import History, Progress, load_state, save_state, state_path  # noqa: E402
from training.model import checkpoint  # noqa: E402
from training.model.trainer import Trainer  # noqa: E402
from training.settings import Settings  # noqa: E402

PROGRESS = Progress(seconds=12.0, step=7, clips=70, answers=140, reads=True)


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.build_tokenizer()


@pytest.fixture
def fresh(tokenizer):
    """Makes a tiny trainer with random weights, and its optimisers."""

    def made():
        trainer = Trainer(checkpoint.build_model(tokenizer, "tiny"), torch.device("cpu"))
        return trainer, loop.make_optimizers(trainer)

    return made


def one_step(trainer, optimizers, seed: int) -> None:
    """A step of the optimisers with random gradients."""
    torch.manual_seed(seed)
    for parameter in trainer.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in optimizers:
        optimizer.step()


def test_a_training_goes_on_as_if_it_had_not_been_interrupted(fresh, tmp_path):
    trainer, optimizers = fresh()
    one_step(trainer, optimizers, 0)
    save_state(tmp_path, trainer, optimizers, PROGRESS)
    one_step(trainer, optimizers, 1)
    again, its_optimizers = fresh()
    assert load_state(tmp_path, again, its_optimizers) == PROGRESS
    one_step(again, its_optimizers, 1)
    for one, other in zip(trainer.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_training_goes_on_from_what_is_committed(fresh, tokenizer, tmp_path):
    """Without the large file the weights and heads are those of the checkpoint, in bf16, and the log says how far it was."""
    trainer, optimizers = fresh()
    for seed, progress in enumerate((Progress(seconds=3.0, step=2), PROGRESS)):
        one_step(trainer, optimizers, seed)
        checkpoint.save_checkpoint(trainer.model, tokenizer, tmp_path)
        save_state(tmp_path, trainer, optimizers, progress)
        counted = dict(step=progress.step, clips=progress.clips, answers=progress.answers, reads=progress.reads)
        History(tmp_path, writes=True).say(s=round(progress.seconds), **counted, saved=True)
    History(tmp_path, writes=True).say(s=15, step=9)
    state_path(tmp_path).unlink()
    again, its_optimizers = fresh()
    assert load_state(tmp_path, again, its_optimizers) == PROGRESS
    for one, other in zip(trainer.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.bfloat16().float(), other)
    one_step(again, its_optimizers, 2)


def test_a_run_overwrites_no_other_and_goes_on_from_nothing(tmp_path):
    for _ in range(2):  # also after a run that ended before its first checkpoint
        with pytest.raises(FileNotFoundError, match="leave out --resume"):
            loop.train(Settings(None, tmp_path, 1, resume=True))
        (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(FileExistsError, match="give --resume"):
        loop.train(Settings(None, tmp_path, 1))
