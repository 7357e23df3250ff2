"""Worker processes that draw scenes and pass them through H.264."""

import io
import json
import os
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image

from kvlib.lab.study import clips as video
from kvlib.lab.study import synthetic
from training.sizes import GRIDS, MERGED_SIDE


def draw_scene(rng: random.Random, fonts: list[str], split: str, max_length: int) -> synthetic.Scene:
    """A random scene for training, with a random font and layout: 53% plain text, 37% colour cards, 10% blank."""
    kind = rng.choices(["plain", "card", "blank"], [0.53, 0.37, 0.10])[0]
    text = "" if kind == "blank" else synthetic.draw_text(rng, split, max_length)
    color = rng.choice(list(synthetic.COLORS)) if kind == "card" else None
    return synthetic.Scene(text, color, rng.choice(fonts), rng.choice(synthetic.TRAIN_LAYOUTS), rng.getrandbits(32))


def make_clips(seed: int, families: list[list[str]], split: str, grid: tuple[int, int], count: int, max_length: int = 24):
    """Draw `count` scenes, encode them as one H.264 video and decode them again.

    Returns the clips uint8 [count, 2, 3, H, W] at the model's resolution, the scenes, and for each scene the centres of its
    characters [characters, 2] as shares of the width and the height.
    """
    rng = random.Random(seed)
    height, width = grid[0] * MERGED_SIDE, grid[1] * MERGED_SIDE
    scale = rng.choice([1, 1.25, 1.5, 2, 2, 2])
    source = [2 * round(side * scale * rng.uniform(0.96, 1.04) / 2) if scale < 2 else 2 * side for side in (width, height)]
    fonts = [rng.choice(rng.choice(families)) for _ in range(count)]
    scenes = [draw_scene(rng, [font], split, min(max_length, width // 11)) for font in fonts]
    pictures, centres = zip(*(video.compose(scene, *source) for scene in scenes), strict=True)
    file = io.BytesIO()
    video.write_video(file, (picture for picture in pictures for _ in range(2)), 2, rng.randint(18, 34))
    file.seek(0)
    frames = video.read_video(file)
    if frames.shape[1:3] != (height, width):
        frames = np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])
    return frames.reshape(count, 2, height, width, 3).transpose(0, 1, 4, 2, 3), scenes, [c / np.array(source) for c in centres]


def render_worker(number: int, folder: Path, families: list[list[str]]) -> None:
    """Write blocks of 48 clips into `folder` until the process is killed. Every 12th block shows held-out text, for monitoring.

    A block is two files, clips (.npy) and texts (.json). They are written under hidden names and renamed when complete, the
    .json last.
    """
    os.nice(19)  # the trainer and its compiler have priority
    block = 0
    while True:
        if len(os.listdir(folder)) > 240:
            time.sleep(0.2)
            continue
        seed = number * 1_000_000 + block
        rng = random.Random(seed)
        grid = GRIDS[0] if block < 8 or rng.random() < 0.7 else rng.choice(GRIDS[1:])
        split = "held_out" if block % 12 == 11 else "train"
        max_length = 24 if split == "held_out" else (8 if block < 8 else rng.choice([8, 24, 24, 24]))
        clips, scenes, centres = make_clips(seed, families, split, grid, 48, max_length)
        name = f"{split}-{grid[0]}-{grid[1]}-{seed}"
        np.save(folder / f".{name}.npy", np.ascontiguousarray(clips))
        colors = [list(synthetic.COLORS).index(s.color) if s.color else -1 for s in scenes]
        meta = [(s.text, c, at.round(4).tolist()) for s, c, at in zip(scenes, colors, centres, strict=True)]
        (folder / f".{name}.json").write_text(json.dumps(meta))
        os.rename(folder / f".{name}.npy", folder / f"{name}.npy")
        os.rename(folder / f".{name}.json", folder / f"{name}.json")
        block += 1
