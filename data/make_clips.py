"""Make the clips in `data/clips/`: H.264 in MP4, each with an `.srt` beside it as ground truth.

    .venv/bin/python data/make_clips.py

The same versions of PyAV and Pillow write the same bytes. The lyrics are in the public domain: their authors died before
1900, or they are older than 1880. The font is DejaVu, which the reader was not trained on.
"""

import argparse
import datetime
import random
import textwrap
from pathlib import Path

import srt

from kvlib.lab.report import paths
from kvlib.lab.study.clips import render, write_video
from kvlib.lab.study.synthetic import COLORS, MAX_LINE, Scene, dejavu_fonts
from kvlib.lab.video.subtitles import srt_of

WIDTH, HEIGHT, FPS = 560, 280, 24
CARD_EVERY, BLANK_EVERY = 6, 9  # every so many lines: a colour card; a blank screen after the line

SONGS = {
    "Amazing Grace": [  # John Newton, 1779
        "Amazing grace!", "How sweet the sound", "That saved a wretch like me!", "I once was lost,", "but now am found;",
        "Was blind, but now I see.", "'Twas grace that taught my heart to fear,", "And grace my fears relieved;",
        "How precious did that grace appear", "The hour I first believed!",
    ],
    "Oh! Susanna": [  # Stephen Foster, 1848
        "I came from Alabama", "with my banjo on my knee,", "I'm going to Louisiana,", "My true love for to see.",
        "It rained all night", "the day I left,", "The weather it was dry,", "The sun so hot I froze to death,",
        "Susanna, don't you cry.",
    ],
    "Jingle Bells": [  # James Pierpont, 1857
        "Dashing through the snow", "In a one-horse open sleigh,", "O'er the fields we go,", "Laughing all the way;",
        "Bells on bobtail ring,", "Making spirits bright;", "What fun it is to ride and sing", "A sleighing song tonight!",
    ],
    "Beautiful Dreamer": [  # Stephen Foster, 1864
        "Beautiful dreamer,", "wake unto me,", "Starlight and dewdrops", "are waiting for thee;", "Sounds of the rude world",
        "heard in the day,", "Lull'd by the moonlight", "have all pass'd away!",
    ],
    "The Tyger": [  # William Blake, 1794
        "Tyger Tyger,", "burning bright,", "In the forests of the night;", "What immortal hand", "or eye,",
        "Could frame thy fearful symmetry?",
    ],
    "Auld Lang Syne": [  # Robert Burns, 1788
        "Should auld acquaintance be forgot,", "And never brought to mind?", "For auld lang syne,", "my dear,",
        "We'll tak' a cup o' kindness yet,",
    ],
}  # fmt: skip


def draw_lyrics(title: str, seconds: int, seed: int) -> list[tuple[Scene, int]]:
    """Scenes with their durations in whole seconds, `seconds` in total: the title, then the lines of the songs, 4 or 5 s
    each."""
    rng = random.Random(seed)
    lines = [line for song in SONGS.values() for line in song]
    shown = [(_scene(rng, title, None), 4)]
    for number, line in enumerate(lines, start=1):
        color = rng.choice(list(COLORS)) if number % CARD_EVERY == 0 else None
        shown.append((_scene(rng, line, color), rng.choice([4, 4, 5])))
        if number % BLANK_EVERY == 0:
            shown.append((_scene(rng, "", None), 2))
    kept = []
    for scene, duration in shown:
        duration = min(duration, seconds - sum(d for _, d in kept))
        if duration > 0:
            kept.append((scene, duration))
    assert sum(duration for _, duration in kept) == seconds, f"too few lines for {seconds} s"
    return kept


def _scene(rng: random.Random, text: str, color: str | None) -> Scene:
    text = "\n".join(textwrap.wrap(text, MAX_LINE))
    assert text.count("\n") < 2, f"{text!r}: at most two lines of {MAX_LINE} characters"
    font = next(path for path in dejavu_fonts() if path.endswith("DejaVuSans.ttf"))
    return Scene(text, color, font, "gradient" if color else "subtitle_band", rng.getrandbits(32))


def write_clip(path: Path, scenes: list[tuple[Scene, int]]) -> None:
    """Write the clip to `path` and its subtitles to the `.srt` beside it."""
    frames = (frame for scene, seconds in scenes for frame in render(scene, WIDTH, HEIGHT, seconds * FPS))
    write_video(path, frames, FPS, crf=23)
    subtitles, start = [], 0
    for scene, seconds in scenes:
        if scene.text:
            begin, end = (datetime.timedelta(seconds=second) for second in (start, start + seconds))
            subtitles.append(srt.Subtitle(len(subtitles) + 1, begin, end, scene.text))
        start += seconds
    srt_of(path).write_text(srt.compose(subtitles), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=paths.DATA / "clips")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_clip(out / "lyrics.mp4", draw_lyrics("Songs of Long Ago", 200, seed=1))
    write_clip(out / "short.mp4", draw_lyrics("A Short Clip", 12, seed=2))


if __name__ == "__main__":
    main()
