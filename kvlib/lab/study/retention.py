"""What a stream remembers: the study of methods and position modes on streams with known answers.

`accuracy_over_length` asks position modes after streams of growing length. In the other studies every method processes the same
streams under the same budget in tokens. At the end of a stream, whose length it cannot know, it is asked for the text on screen
(now), for the first chunk's text (title), and for the texts of cards that were shown a known number of chunks ago, each in a
colour of its own (history at that age).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch

from kvlib.evictor import EvictionConfig
from kvlib.lab.study.clips import encode_and_decode
from kvlib.lab.study.diagnosis import at_contiguous_positions, attention_by_region, explain
from kvlib.lab.study.methods import engines_by_mode, process_together
from kvlib.lab.study.runs import each_stream
from kvlib.lab.study.scoring import exact_match
from kvlib.lab.study.synthetic import COLORS, QUESTIONS, Scene, answer, draw_stream
from kvlib.lab.video.source import VideoSource
from kvlib.lab.video.subtitles import read_srt, srt_of, truth_at
from kvlib.ops.positions import rotate_keys
from kvlib.stream import VideoStreamingInference

MAX_NEW_TOKENS = 60
MODES = ("keep", "remap")


def accuracy_over_length(model, processor, lengths, streams: int, budget: int, seed: int, modes=MODES) -> pd.DataFrame:
    """Ask for title and current line after streams of `lengths` chunks, in every position mode on the same held-out streams.

    Each stream is drawn, encoded to H.264, decoded and put through the vision tower once; one engine per mode processes it, all
    with the same `budget` in tokens.

    A table [stream, position_mode, chunks, question, truth, answer, correct, first_eviction]; the last is the stream length
    at which the first eviction came, NaN if none did.
    """

    def process(stream: int) -> list[dict]:
        scenes = draw_stream(max(lengths), seed + stream)
        for length in lengths:  # a blank screen would be a question of another kind
            scenes[length - 1] = replace(scenes[length - 1], text=scenes[length - 1].text or f"Line {length}")
        engines, rows, first_eviction = engines_by_mode(model, processor, budget, modes), [], math.nan
        for length, frames in enumerate(encode_and_decode(scenes), start=1):
            process_together(engines.values(), frames)
            for mode, engine in engines.items():
                if math.isnan(first_eviction) and engine.cache_manager.evictor.total_evictions:
                    first_eviction = length
                if length in lengths:
                    asked = _ask_title_and_line(engine, scenes[:length])
                    rows += [dict(stream=stream, position_mode=mode, chunks=length, **row) for row in asked]
        return [row | {"first_eviction": first_eviction} for row in rows]

    return pd.DataFrame([row for rows in each_stream(process, streams, model) for row in rows])


def draw_history_stream(chunks: int, ages: Sequence[int], seed: int) -> tuple[list[Scene], dict[int, str]]:
    """A held-out stream whose cards are shown `ages` chunks before its end, and the colour of each age's card.

    There are no other cards. Ages that the stream is too short for are left out; the title is never a card and the last screen
    is never blank. Raises ValueError for more ages than there are colours.
    """
    if len(ages) > len(COLORS):
        raise ValueError(f"{len(ages)} ages: there are {len(COLORS)} colours of cards, give at most so many ages")
    rng = random.Random(f"history {seed}")
    spare = [scene.text for scene in draw_stream(2 * len(COLORS) + 8, seed + 1_000_000) if scene.text]
    scenes = [replace(scene, color=None) for scene in draw_stream(chunks, seed)]
    colors = dict(zip(ages, rng.sample(sorted(COLORS), len(ages)), strict=True))
    shown = {age: color for age, color in colors.items() if age < chunks - 1}
    for age, color in shown.items():
        position = chunks - 1 - age
        scenes[position] = replace(scenes[position], color=color, text=scenes[position].text or spare.pop())
    scenes[-1] = replace(scenes[-1], text=scenes[-1].text or spare.pop())
    return scenes, shown


def repeat_colors(scenes: Sequence[Scene], colors: dict[int, str], seed: int) -> list[Scene]:
    """The stream of `draw_history_stream` made harder: every card's colour is shown once before, on an earlier chunk that has a
    text, and the title stands on a card of one of these colours. The true answers stay the same.

    Where a card has no earlier chunk with a text that is free, its colour is not repeated, except by the title.
    """
    rng, harder = random.Random(f"repeated {seed}"), list(scenes)
    for age, color in sorted(colors.items()):
        free = [at for at in range(1, len(scenes) - 1 - age) if harder[at].text and harder[at].color is None]
        if free:
            at = rng.choice(free)
            harder[at] = replace(harder[at], color=color)
    harder[0] = replace(harder[0], color=rng.choice(sorted(colors.values())))
    return harder


def ask_all(engine, scenes: Sequence[Scene], colors: dict[int, str], phrasing: int = 0, recall: int = 0) -> list[dict]:
    """Ask for now, title and history, greedily, in the wording number `phrasing` of `QUESTIONS`, with up to `recall` chunks
    from the engine's archive.

    Returns a row [question, age, truth, answer, correct, ttft, prompt_tokens] for each question.
    """
    asked = [("now", 0, "now", None), ("title", len(scenes) - 1, "title", None)]
    asked += [("history", age, "card", color) for age, color in colors.items()]
    rows = []
    for name, age, kind, color in asked:
        question = QUESTIONS[kind][phrasing].format(color=color)
        known, metrics = _ask(engine, question, answer(scenes, kind, color), recall=recall)
        rows.append(dict(question=name, age=age, **known, **{key: metrics[key] for key in ("ttft", "prompt_tokens")}))
    return rows


def compare(
    model, processor, engines: dict[int, dict[str, Callable]], lengths: tuple[int, int], ages, streams: int, seed: int
) -> pd.DataFrame:
    """Let every method process the same `streams` streams and ask it; their lengths in chunks are drawn from `lengths`.

    engines: by budget in tokens, as `methods` gives them. lengths: (least, most). A table [stream, budget, method, chunks,
    cache_tokens, cache_bytes, question, age, truth, answer, correct, ttft, prompt_tokens], paired by stream.
    """

    def process(stream: int) -> list[dict]:
        scenes, colors = _draw_stream_of_unknown_length(lengths, ages, seed + stream)
        made = {(budget, name): make(model, processor) for budget, named in engines.items() for name, make in named.items()}
        for frames in encode_and_decode(scenes):
            process_together(made.values(), frames)
        rows = []
        for (budget, name), engine in made.items():
            same = dict(stream=stream, budget=budget, method=name, chunks=len(scenes), **_size(engine))
            rows += [same | row for row in ask_all(engine, scenes, colors)]
        return rows

    return pd.DataFrame([row for rows in each_stream(process, streams, model) for row in rows])


def compare_on_video(model, processor, makers: dict[str, Callable], source: VideoSource, interval: int) -> pd.DataFrame:
    """Let methods, as `methods` gives them, process a video with an .srt beside it; ask after every `interval` chunks.

    now: the text on screen, "no text" where there is none. title: the first chunk's text; not asked where the .srt has none
    then. A table [time_s, video_s (streamed so far), method, question, truth, answer, correct, cache_tokens, cache_bytes,
    tokens_seen, tokens_dropped (both NaN for a method without a cache), ttft]. Raises what `read_srt` and `VideoChunks` raise,
    and ValueError for a video of fewer than `interval` chunks.
    """
    video_s, subtitles, rows, title = 0.0, read_srt(srt_of(source.path)), [], ""
    source.check_interval(interval)
    engines = {name: make(model, processor) for name, make in makers.items()}
    for index, chunk in source.chunks():
        process_together(engines.values(), chunk.frames, chunk.fps)
        video_s += len(chunk.frames) / chunk.fps
        now = truth_at(subtitles, chunk.time_s)
        title = title if index else now
        if (index + 1) % interval:
            continue
        for name, engine in engines.items():
            info = engine.get_cache_info()
            same = dict(time_s=chunk.time_s, video_s=video_s, method=name, **_size(engine))
            same |= {key: info.get(key, math.nan) for key in ("tokens_seen", "tokens_dropped")}
            for kind, truth in (("now", now), ("title", title)):
                if kind == "title" and not title:
                    continue
                known, metrics = _ask(engine, QUESTIONS[kind][0], truth)
                rows.append(same | dict(question=kind, **known, ttft=metrics["ttft"]))
    return pd.DataFrame(rows)


def last_right(answers: pd.DataFrame, question: str) -> pd.Series:
    """Per method: the time in s of the last answer to `question` before the first wrong one; 0 when the first was wrong."""
    asked = answers[answers["question"] == question].sort_values("time_s")
    right = asked.groupby("method", sort=False)["correct"].cummin()
    return asked["time_s"].where(right, 0.0).groupby(asked["method"], sort=False).max()


def attribute_errors(model, processor, budget: int, lengths: tuple[int, int], ages, streams: int, seed: int) -> pd.DataFrame:
    """Why a stream in the position mode "keep" answers wrong: a table [stream, question, age, correct, reason].

    Every question is also asked in two counterfactuals: the same tokens at contiguous positions, and the same positions with
    nothing evicted. `kvlib.lab.study.diagnosis.explain` gives the reason from the three answers.
    """

    def process(stream: int) -> list[dict]:
        scenes, colors = _draw_stream_of_unknown_length(lengths, ages, seed + stream)
        full = VideoStreamingInference(model, processor, model.device)
        gapped = VideoStreamingInference(model, processor, model.device, EvictionConfig(budget, position_mode="keep"))
        for frames in encode_and_decode(scenes):
            process_together([full, gapped], frames)
        actual, everything = (ask_all(engine, scenes, colors) for engine in (gapped, full))
        contiguous = ask_all(at_contiguous_positions(gapped), scenes, colors)
        return [
            dict(stream=stream, question=row["question"], age=row["age"], correct=row["correct"],
                 reason=explain(row["correct"], closed["correct"], kept["correct"]))
            for row, closed, kept in zip(actual, contiguous, everything, strict=True)
        ]  # fmt: skip

    return pd.DataFrame([row for rows in each_stream(process, streams, model) for row in rows])


def attention(model, processor, budget: int, chunks: int, streams: int, seed: int, modes=MODES) -> pd.DataFrame:
    """What the question for the title attends to after streams of `chunks` chunks, in every position mode.

    `attention_by_region` of every stream and mode, with the columns stream and position_mode.
    """

    def process(stream: int) -> list[pd.DataFrame]:
        engines = engines_by_mode(model, processor, budget, modes)
        for frames in encode_and_decode(draw_stream(chunks, seed + stream)):
            process_together(engines.values(), frames)
        question = QUESTIONS["title"][0]
        return [
            attention_by_region(engine, question).assign(stream=stream, position_mode=mode) for mode, engine in engines.items()
        ]

    return pd.concat([table for tables in each_stream(process, streams, model) for table in tables], ignore_index=True)


def timeline(model, processor, engines: dict[str, Callable], chunks: int, seed: int) -> pd.DataFrame:
    """Which chunks are in the cache at each moment of one stream: a table [method, moment, alive] of chunk numbers.

    Methods without a cache are left out.
    """
    made = {name: make(model, processor) for name, make in engines.items()}
    made = {name: engine for name, engine in made.items() if isinstance(engine, VideoStreamingInference)}
    rows = []
    for moment, frames in enumerate(encode_and_decode(draw_stream(chunks, seed))):
        process_together(made.values(), frames)
        for name, engine in made.items():
            rows += [dict(method=name, moment=moment, alive=chunk.index) for chunk in engine.cache_manager.chunks]
    return pd.DataFrame(rows)


def drift(inverse_frequencies: torch.Tensor, rotations: Sequence[int], step: int, seed: int) -> pd.DataFrame:
    """The error of bf16 keys after numbers of `rotations` by `step` positions each: a table [turns, method, error].

    inverse_frequencies: of RoPE, float [head dim / 2]. `turns` is the number of rotations. method: "chain" rotates the last
    result again; "original" rotates the kept original once by the whole distance, as kvlib does. error: relative to a rotation
    in fp32, ||found - exact|| / ||exact||, over 64 random keys.
    """
    size = 2 * len(inverse_frequencies)
    keys = torch.randn(64, size, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    chain, rows = keys, []
    for number in range(1, max(rotations) + 1):
        chain = rotate_keys(chain, step, inverse_frequencies)
        if number in rotations:
            exact = rotate_keys(keys.float(), step * number, inverse_frequencies)
            for method, found in (("chain", chain), ("original", rotate_keys(keys, step * number, inverse_frequencies))):
                error = ((found.float() - exact).norm() / exact.norm()).item()
                rows.append(dict(turns=number, method=method, error=error))
    return pd.DataFrame(rows)


def _draw_stream_of_unknown_length(lengths: tuple[int, int], ages, seed: int) -> tuple[list[Scene], dict[int, str]]:
    """`draw_history_stream` with a number of chunks drawn from `lengths` (least, most)."""
    return draw_history_stream(random.Random(f"length {seed}").randint(*lengths), ages, seed)


def _ask_title_and_line(engine, scenes: Sequence[Scene]) -> list[dict]:
    return [
        dict(question=name, **_ask(engine, QUESTIONS[kind][0], answer(scenes, kind))[0])
        for kind, name in (("title", "title"), ("now", "current line"))
    ]


def _ask(engine, question: str, truth: str, **options) -> tuple[dict, dict]:
    """Ask greedily: the columns truth, answer and correct, and the metrics of `ask`, which takes `options` too."""
    said, metrics = engine.ask(question, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, **options)
    return dict(truth=truth, answer=said, correct=exact_match(said, truth)), metrics


def _size(engine) -> dict:
    info = engine.get_cache_info()
    return dict(cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"])
