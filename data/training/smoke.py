"""Every part of the training once, small, on a CPU: what `train_reader.py --smoke` does."""

import json
from pathlib import Path

import numpy as np
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.study import runs, synthetic
from training.loop import train
from training.settings import DEFAULT, Settings

SECONDS, MORE = 45, 5  # of training, from random weights and after going on; a step counts as one
SETTINGS = dict(
    size="tiny",
    clips=12,
    workers=1,
    capacity=960,
    grids={DEFAULT: 0.4, (4, 8): 0.6},
    step_s=1.0,
    every=20,
    first=96,
    warm_up=10,
)
LEARNED = 0.93  # of the loss of the first answers: their letters are no longer all equally likely


def smoke(out: Path) -> None:
    """Train a tiny model in the DejaVu fonts, go on from its checkpoint, and ask it through the engine.

    Raises RuntimeError when it has not begun to learn.
    """
    train(Settings(None, out, SECONDS, **SETTINGS))
    train(Settings(None, out, SECONDS + MORE, resume=True, **SETTINGS))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line["answer"] for line in lines if line.get("answer")]
    if not np.mean(losses[-3:]) < LEARNED * losses[0]:
        raise RuntimeError(f"the loss of the answers did not fall to {LEARNED:.0%} of what it was: {losses}")
    model, processor = runs.load(str(out), torch.device("cpu"))
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(300))
    for seed in range(6):
        engine.append_video_chunk(np.random.default_rng(seed).integers(0, 256, (2, 140, 280, 3)).astype(np.uint8))
    answer, _ = engine.ask(synthetic.QUESTIONS["now"][0], max_new_tokens=8)
    print(json.dumps({"losses": losses, "answer": answer}))
