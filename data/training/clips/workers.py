"""Worker processes that draw blocks of clips, and write them as files for the trainer."""

import json
import os
import random
import time
from pathlib import Path

import numpy as np

from kvlib.lab.study import synthetic
from training.clips.scenes import make_clips
from training.settings import BLOCK, DEFAULT, font_families

WAITING = 240  # files in the folder from which on a worker waits
MONITORED = 16  # every so many blocks one shows held-out text in fonts for monitoring
EASY = 4  # first blocks of a worker, with short texts at the default resolution


def render_worker(number: int, folder: Path, fonts: Path | None, grids: dict) -> None:
    """Write blocks of `BLOCK` clips into `folder` until the process is killed.

    fonts: as in `Settings`; read here, because a long argument makes every start wait for the process before. grids: the share
    of each grid.

    A block is two files, clips (.npy) and texts (.json). They are written under hidden names and renamed when complete, the
    .json last.
    """
    os.nice(19)  # the trainer and its compiler have priority
    families, block = font_families(fonts), 0
    while True:
        if len(os.listdir(folder)) > WAITING:
            time.sleep(0.05)
            continue
        seed = number * 1_000_000 + block
        rng = random.Random(seed)
        part = "monitor" if block % MONITORED == EASY - 1 else "train"
        grid = DEFAULT if part == "monitor" or block < EASY else rng.choices(list(grids), grids.values())[0]
        max_length = (
            synthetic.MAX_LINE if part == "monitor" else 8 if block < EASY else rng.choice([8, *[synthetic.MAX_LINE] * 5])
        )
        split = "held_out" if part == "monitor" else "train"
        clips, scenes, centres = make_clips(seed, families[part], split, grid, BLOCK, max_length)
        name = f"{part}-{grid[0]}-{grid[1]}-{seed}"
        np.save(folder / f".{name}.npy", np.ascontiguousarray(clips))
        colors = [list(synthetic.COLORS).index(s.color) if s.color else -1 for s in scenes]
        meta = [(s.text, c, at.round(4).tolist()) for s, c, at in zip(scenes, colors, centres, strict=True)]
        (folder / f".{name}.json").write_text(json.dumps(meta))
        os.rename(folder / f".{name}.npy", folder / f"{name}.npy")
        os.rename(folder / f".{name}.json", folder / f"{name}.json")
        block += 1
