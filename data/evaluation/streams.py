"""The streams of the evaluation, and the questions that are asked about them through the engine."""

import random
import tempfile
from dataclasses import dataclass, replace
from functools import cache

import torch
from transformers.utils.logging import disable_progress_bar

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.study import runs
from kvlib.lab.study.clips import SOURCE_SIZE, chunks_of_whole, render, write_video
from kvlib.lab.study.scoring import exact_match
from kvlib.lab.study.synthetic import BLANK_ANSWER, COLORS, MAX_AGO, PAST_QUESTION, QUESTIONS, answer, draw_stream

FPS = 2.0  # frames per second; two frames are a temporal grid
SEED = 10_000_000  # far from all seeds of the training and the notebooks


@dataclass(frozen=True)
class Condition:
    """A kind of streams.

    frames: of a chunk. chunks: the fewest and the most of a stream. holds: for how many temporal grids a scene may be shown.
    asked: chunks after which the current line is asked, besides the last. hard: half of the titles stand on a coloured card, and
    earlier chunks are asked for too.
    """

    name: str
    frames: int
    chunks: tuple[int, int]
    streams: int
    holds: tuple[int, ...] = (1,)
    drop_static: float = 0.0
    budget: int | None = None
    size: tuple[int, int] = SOURCE_SIZE
    asked: int = 1
    hard: bool = False


CONDITIONS = (
    Condition("chunks of 2 frames", 2, (1, 16), 450),
    Condition("chunks of 4 frames, static dropped", 4, (1, 16), 320, (1, 2, 3, 4), 0.03),
    Condition("chunks of 8 frames, static dropped", 8, (1, 8), 320, (1, 2, 3, 4), 0.03),
    Condition("17 to 32 chunks in view", 2, (17, 32), 150, asked=3, hard=True),
    Condition("672x336, chunks of 4 frames, budget 2,000", 4, (24, 40), 150, (2,), budget=2000, size=(672, 336), asked=3),
)


def watch(job: tuple[Condition, int, dict[str, list[str]], str]) -> list[dict]:
    """Draw the stream with a seed, stream it and ask: a row [condition, stream, family, layout, chunks, kind, question, truth,
    answer, correct] for every question. job: condition, seed, font files by family, folder of the reader.

    The stream is written as H.264 in MP4, decoded and streamed through `kvlib`, which resizes it to the default resolution.
    """
    condition, seed, families, reader = job
    torch.set_num_threads(1)
    rng = random.Random(seed)
    family = rng.choice(sorted(families))
    grids = condition.frames // 2
    scenes, shown = draw_scenes(condition, rng, SEED + seed, families[family])
    count = len(shown) // grids
    config = EvictionConfig(condition.budget) if condition.budget else None
    engine = VideoStreamingInference(*load(reader), "cpu", config, drop_static=condition.drop_static)
    rows = []

    def ask(kind: str, question: str, truth: str) -> None:
        said, _ = engine.ask(question, max_new_tokens=120, do_sample=False)
        known = dict(condition=condition.name, stream=seed, family=family, layout=scenes[0].layout, chunks=count, kind=kind)
        rows.append(known | dict(question=question, truth=truth, answer=said, correct=exact_match(said, truth)))

    def ask_about(kind: str, asked: str, seen: list, color: str | None = None) -> None:
        ask(kind, QUESTIONS[asked][0].format(color=color), answer(seen, asked, color))

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        write_video(file.name, (frame for at in shown for frame in render(scenes[at], *condition.size, 2)), FPS)
        extra = {rng.randrange(count) for _ in range(condition.asked)}  # the current line is asked here too
        for index, chunk in enumerate(chunks_of_whole(file.name, condition.frames, FPS)):
            engine.append_video_chunk(chunk.frames, FPS)
            seen = scenes[: shown[grids * (index + 1) - 1] + 1]
            blank = not seen[-1].text
            if blank or index in extra or index == count - 1:
                ask_about("blank" if blank else "current line", "now", seen)
    present = sorted({scene.color for scene in scenes if scene.color})
    ask_about("title on a card" if scenes[0].color else "title", "title", scenes)
    if present:
        color = rng.choice(present)
        again = sum(scene.color == color for scene in scenes) > 1
        if not condition.budget:  # within a budget the card may have been evicted
            ask_about("card, its colour shown again" if condition.hard and again else "card", "card", scenes, color)
    if absent := sorted(set(COLORS) - set(present)):
        ask_about("absent card", "card", scenes, rng.choice(absent))
    ask_about("summary", "summary", scenes)
    if condition.hard:
        ago = rng.randint(2, MAX_AGO)
        ask("earlier chunk", PAST_QUESTION.format(ago=ago), scenes[shown[grids * (count - ago) - 1]].text or BLANK_ANSWER)
    return rows


def draw_scenes(condition: Condition, rng: random.Random, seed: int, fonts: list[str]) -> tuple[list, list[int]]:
    """The scenes of a stream, and for each temporal grid the index of the one it shows."""
    count = rng.randint(*condition.chunks) * (condition.frames // 2)
    shown: list[int] = []
    while len(shown) < count:
        hold = condition.holds[0] if len(condition.holds) == 1 else rng.choice(condition.holds)
        shown += [shown[-1] + 1 if shown else 0] * hold
    shown = shown[:count]
    scenes = draw_stream(shown[-1] + 1, seed, "held_out", fonts)
    if condition.hard and rng.random() < 0.5:
        scenes[0] = replace(scenes[0], color=rng.choice(list(COLORS)))
    return scenes, shown


@cache
def load(reader: str):
    """The model and the processor in the folder `reader`, once per process."""
    disable_progress_bar()
    return runs.load(reader, torch.device("cpu"))
