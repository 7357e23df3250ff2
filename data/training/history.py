"""What a run leaves behind for the next one: its log, JSON lines that are printed too, and the state that it goes on from."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


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


def heads_path(out: Path) -> Path:
    return out / "heads.safetensors"


def save_state(out: Path, trainer, optimizers: list, progress: Progress) -> None:
    """Write what `load_state` needs beside the checkpoint: the weights in fp32, heads and moments, too large to be committed; and
    the heads in bf16. Each file is replaced at once."""
    state = dict(trainer=trainer.state_dict(), optimizers=[optimizer.state_dict() for optimizer in optimizers])
    _replace(state_path(out), lambda new: torch.save(state | dict(progress=asdict(progress)), new))
    heads = {name: value.cpu().bfloat16() for name, value in trainer.glyph_head.state_dict().items()}
    _replace(heads_path(out), lambda new: save_file(heads, new))


def load_state(out: Path, trainer, optimizers: list) -> Progress:
    """Load what `save_state` wrote, of a model of the same size.

    Without the large file, as in a clone of the repository, weights and heads are those of the checkpoint, in bf16, and the
    moments begin at zero.
    """
    if not state_path(out).exists():
        return _load_checkpoint(out, trainer)
    state = torch.load(state_path(out), map_location=trainer.device)
    trainer.load_state_dict(state["trainer"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def _load_checkpoint(out: Path, trainer) -> Progress:
    loaded = type(trainer.model).from_pretrained(out, dtype=torch.float32)
    trainer.model.load_state_dict(loaded.state_dict())
    trainer.glyph_head.load_state_dict(load_file(heads_path(out)))
    saved = [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if line.get("saved")][-1]
    return Progress(saved["s"], *(saved[name] for name in ("step", "clips", "answers", "reads")))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    new = path.with_suffix(".new")
    write(new)
    os.replace(new, path)
