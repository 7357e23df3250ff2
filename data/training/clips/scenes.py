"""Scenes to train on, drawn in shots and passed through H.264."""

import io
import random

import numpy as np
from PIL import Image

from kvlib.lab.study import clips as video
from kvlib.lab.study import synthetic
from training.clips.texts import draw_next, draw_text
from training.settings import MERGED_SIDE, SHOT

MIXED = 0.07  # share of the clips whose first frame still shows what came before
SCALES = (1, 1.25, 1.5, 2, 2, 2, 2.4)  # size of the encoded picture, of the model's


def draw_shot(rng: random.Random, fonts: list[str], split: str, max_length: int) -> list[synthetic.Scene]:
    """`SHOT` scenes in one font, layout and background: 37% of shots are colour cards, a fifth of the other scenes are blank."""
    color = rng.choice(list(synthetic.COLORS)) if rng.random() < 0.37 else None
    font, layout, seed, size = rng.choice(fonts), rng.choice(synthetic.TRAIN_LAYOUTS), rng.getrandbits(32), draw_size(rng)
    scenes, text = [], ""
    for _ in range(SHOT):
        text = draw_next(rng, text, split, max_length) if text else draw_text(rng, split, max_length)
        shown = "" if color is None and rng.random() < 0.2 else text
        scenes.append(synthetic.Scene(shown, color, font, layout, seed, size))
    return scenes


def draw_size(rng: random.Random) -> float | None:
    """A font's size as a share of the picture's height: that of the synthetic streams, smaller as in subtitles, or larger."""
    kind = rng.random()
    return None if kind < 0.6 else rng.uniform(0.075, 0.12) if kind < 0.88 else rng.uniform(0.18, 0.28)


def make_clips(seed: int, families: list[list[str]], split: str, grid: tuple[int, int], count: int, max_length: int = 24):
    """Draw `count` scenes in shots of `SHOT`, encode them as one H.264 video of two frames each, and decode them again.

    Returns the clips uint8 [count, 2, 3, H, W] at the model's resolution, the scenes that their second frames show, and for each
    scene the centres of its characters [characters, 2] as shares of the width and the height.
    """
    rng = random.Random(seed)
    height, width = grid[0] * MERGED_SIDE, grid[1] * MERGED_SIDE
    scale = rng.choice(SCALES)
    source = [
        2 * round(side * scale * rng.uniform(0.96, 1.04) / 2) if scale < 2 else 2 * round(side * scale / 2)
        for side in (width, height)
    ]
    longest = min(max_length, width // 11)
    shots = [draw_shot(rng, rng.choice(families), split, longest) for _ in range(count // SHOT)]
    scenes = [scene for shot in shots for scene in shot]
    pictures, centres = zip(*(drawn for shot in shots for drawn in video.compose_shot(shot, *source)), strict=True)
    frames = [
        pictures[number - 1 if first and number and rng.random() < MIXED else number]
        for number in range(count)
        for first in (True, False)
    ]
    file = io.BytesIO()
    video.write_video(file, frames, 2, rng.randint(18, 34), rng.choice(["veryfast", "ultrafast"]))
    file.seek(0)
    decoded = video.read_video(file)
    if decoded.shape[1:3] != (height, width):
        decoded = np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in decoded])
    return decoded.reshape(count, 2, height, width, 3).transpose(0, 1, 4, 2, 3), scenes, [c / np.array(source) for c in centres]
