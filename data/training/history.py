"""What a run leaves behind for the next one: its log, JSON lines that are printed too, and the state that it goes on from."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass
class Progress:
    """How far the training is. seconds: of training, at the last checkpoint. step, clips, answers: counted over all runs; clips
    and answers of one GPU. reads: whether the reader counts as reading."""

    seconds: float = 0.0
    step: int = 0
    clips: int = 0
    answers: int = 0
    reads: bool = False


class History:
    """The log in the folder `out`, and writing it on; only the first rank writes. runs: how many runs it has."""

    def __init__(self, out: Path, writes: bool):
        path = out / "log.jsonl"
        self.runs = path.read_text().count('"parameters"') if path.exists() else 0
        self.file = open(path, "a", buffering=1) if writes else None

    def say(self, **values) -> None:
        if self.file:
            self.file.write(json.dumps(values) + "\n")
            print(json.dumps(values), flush=True)


def state_path(out: Path) -> Path:
    return out / "training_state.pt"


def save_state(out: Path, trainer, optimizers: list, progress: Progress) -> None:
    """Write what `load_state` needs: weights in fp32, heads and moments, too large to be committed. The file is replaced at
    once."""
    state = dict(trainer=trainer.state_dict(), optimizers=[optimizer.state_dict() for optimizer in optimizers])
    new = state_path(out).with_suffix(".new")
    torch.save(state | dict(progress=asdict(progress)), new)
    os.replace(new, state_path(out))


def load_state(out: Path, trainer, optimizers: list) -> Progress:
    """Load what `save_state` wrote, of a model of the same size."""
    state = torch.load(state_path(out), map_location=trainer.device)
    trainer.load_state_dict(state["trainer"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])
