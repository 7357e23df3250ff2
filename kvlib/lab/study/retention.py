"""What to forget: the study of policies and position modes on streams with known answers.

Every contender watches the same streams under the same budget in tokens. At the end of a stream, whose length it cannot know,
it is asked for the text on screen (now), for the first chunk's text (title), and for the texts of cards that were shown a
known number of chunks ago, each in a colour of its own (history at age k).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from tqdm.auto import tqdm

from kvlib.evictor import EvictionConfig
from kvlib.lab.study.baselines import LastFrames
from kvlib.lab.study.diagnosis import at_contiguous_positions, attention_by_region, explain
from kvlib.lab.study.experiments import count_correct, each_stream, engines_by_mode, judge, play, watch_together
from kvlib.lab.study.scoring import read_srt, reads, truth_at
from kvlib.lab.study.synthetic import COLORS, QUESTIONS, Scene, answer, draw_stream
from kvlib.ops.positions import rotate_keys
from kvlib.policies import Importance
from kvlib.policies.scorers import SCORERS
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunks

MAX_NEW_TOKENS = 60


def contenders(budget: int, position_mode: str) -> dict[str, Callable]:
    """What is compared at `budget` tokens: name -> function of (model, processor) that makes an engine.

    The policies go by their names, importance by its scorers'. "none" never evicts, so its memory has no bound; "last_n" has
    no cache and watches as many chunks as the budget holds.
    """

    def evicting(policy) -> Callable:
        config = EvictionConfig(budget, policy=policy, position_mode=position_mode)
        return lambda model, processor: VideoStreamingInference(model, processor, model.device, config)

    return {
        "none": lambda model, processor: VideoStreamingInference(model, processor, model.device),
        "sink_window": evicting("sink_window"),
        "uniform": evicting("uniform"),
        **{name: evicting(Importance(name)) for name in SCORERS},
        "last_n": lambda model, processor: LastFrames(model, processor, model.device, budget),
    }


def draw_history_stream(chunks: int, ages: Sequence[int], seed: int) -> tuple[list[Scene], dict[int, str]]:
    """A held-out stream that shows its only cards `ages` chunks before its end, and the colour of each age's card.

    Ages that the stream is too short for are left out; the title is no card and the last screen is not blank. Raises
    ValueError for more ages than there are colours.
    """
    if len(ages) > len(COLORS):
        raise ValueError(f"{len(ages)} ages: there are {len(COLORS)} colours of cards, give at most so many ages")
    rng = random.Random(f"history {seed}")
    spare = [scene.text for scene in draw_stream(2 * len(COLORS) + 8, seed + 1_000_000) if scene.text]
    scenes = [replace(scene, color=None) for scene in draw_stream(chunks, seed)]
    colors = dict(zip(ages, rng.sample(sorted(COLORS), len(ages)), strict=True))
    shown = {age: color for age, color in colors.items() if age < chunks - 1}
    for age, color in shown.items():
        place = chunks - 1 - age
        scenes[place] = replace(scenes[place], color=color, text=scenes[place].text or spare.pop())
    scenes[-1] = replace(scenes[-1], text=scenes[-1].text or spare.pop())
    return scenes, shown


def ask_all(engine, scenes: Sequence[Scene], colors: dict[int, str], phrasing: int = 0) -> list[dict]:
    """Ask for now, title and history in one of the wordings of `QUESTIONS`, greedily: a row [question, age, truth, answer,
    correct, ttft, prompt_tokens] each."""
    asked = [("now", 0, "now", None), ("title", len(scenes) - 1, "title", None)]
    asked += [("history", age, "card", color) for age, color in colors.items()]
    rows = []
    for name, age, kind, color in asked:
        truth = answer(scenes, kind, color)
        got, metrics = engine.ask(QUESTIONS[kind][phrasing].format(color=color), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        known = dict(question=name, age=age, truth=truth, **judge(got, truth))
        rows.append(known | {key: metrics[key] for key in ("ttft", "prompt_tokens")})
    return rows


def compare(
    model, processor, engines: dict[int, dict[str, Callable]], lengths: tuple[int, int], ages, streams: int, seed: int
) -> pd.DataFrame:
    """Let every contender watch the same `streams` streams of `lengths` (least, most) chunks, drawn at random, and ask it.

    engines: by budget in tokens, as `contenders` gives them. A table [stream, budget, contender, chunks, cache_tokens,
    cache_bytes, question, age, truth, answer, correct, ttft, prompt_tokens], paired by stream.
    """

    def watch(stream: int) -> list[dict]:
        chunks = random.Random(f"length {seed + stream}").randint(*lengths)
        scenes, colors = draw_history_stream(chunks, ages, seed + stream)
        made = {(budget, name): make(model, processor) for budget, named in engines.items() for name, make in named.items()}
        for frames in play(scenes):
            watch_together(made.values(), frames)
        rows = []
        for (budget, name), engine in made.items():
            info = engine.get_cache_info()
            same = dict(stream=stream, budget=budget, contender=name, chunks=chunks)
            same |= dict(cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"])
            rows += [same | row for row in ask_all(engine, scenes, colors)]
        return rows

    return pd.DataFrame([row for rows in each_stream(watch, streams, model) for row in rows])


def compare_on_video(
    model, processor, makers: dict[str, Callable], video: Path, chunk_frames: int, sample_fps: float, interval: int
) -> pd.DataFrame:
    """Let contenders, as `contenders` gives them, watch a video with an .srt beside it; ask after every `interval` chunks.

    now: the text on screen, "no text" where there is none. title: the first chunk's text; not asked where the .srt has none
    then. A table [time_s, contender, question, truth, answer, correct, cache_tokens, cache_bytes, ttft]. Raises what
    `read_srt` and `VideoChunks` raise.
    """
    subtitles, rows, title = read_srt(video.with_suffix(".srt")), [], ""
    engines = {name: make(model, processor) for name, make in makers.items()}
    for index, (time_s, frames) in enumerate(tqdm(VideoChunks(video, chunk_frames, sample_fps), desc="chunks")):
        watch_together(engines.values(), frames, sample_fps)
        now = truth_at(subtitles, time_s)
        title = title if index else now
        if (index + 1) % interval:
            continue
        for name, engine in engines.items():
            info = engine.get_cache_info()
            same = dict(time_s=time_s, contender=name, cache_tokens=info["cache_seq_length"], cache_bytes=info["cache_bytes"])
            for question, kind, truth in (("now", "now", now), ("title", "title", title)):
                if question == "title" and not title:
                    continue
                got, metrics = engine.ask(QUESTIONS[kind][0], max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
                known = dict(question=question, truth=truth, answer=got, correct=reads(got, truth), ttft=metrics["ttft"])
                rows.append(same | known)
    return pd.DataFrame(rows)


def last_right(answers: pd.DataFrame, question: str) -> pd.Series:
    """Per contender: until when, in seconds of the video, every answer to `question` was right; 0 when the first was wrong."""
    asked = answers[answers["question"] == question].sort_values("time_s")
    right = asked.groupby("contender", sort=False)["correct"].cummin()
    return asked["time_s"].where(right, 0.0).groupby(asked["contender"], sort=False).max()


def summarise(answers: pd.DataFrame, by: str) -> pd.DataFrame:
    """What each of the column `by` remembers and what it costs, in order of appearance: a table with `by` as its index.

    For every question (now, title, history over all ages) and `backward` (title and history): the share of exact answers,
    `<question>_low` and `<question>_high` of its 95% Wilson interval, and `<question>_n`; then `cache_tokens` and
    `cache_bytes` (the most), `prompt_tokens` (mean per question), `ttft` (median, s) and `seconds` (mean), those that the
    answers have.
    """
    parts = [answers, answers[answers["question"] != "now"].assign(question="backward")]
    counted = count_correct(pd.concat(parts), [by, "question"])
    table = pd.DataFrame(index=answers[by].unique())
    for question in ("now", "title", "history", "backward"):
        rows = counted[counted["question"] == question].set_index(by)
        for column, name in (("accuracy", ""), ("low", "_low"), ("high", "_high"), ("n", "_n")):
            table[question + name] = rows[column]
    costs = {"cache_tokens": "max", "cache_bytes": "max", "prompt_tokens": "mean", "ttft": "median", "seconds": "mean"}
    return table.join(answers.groupby(by).agg({name: how for name, how in costs.items() if name in answers}))


def readable(summary: pd.DataFrame) -> pd.DataFrame:
    """A `summarise` table narrow enough to read: a share with its interval in one cell, costs with their units."""
    table = pd.DataFrame(index=summary.index)
    for question in ("now", "title", "history", "backward"):
        bounds = zip(*(summary[question + part] for part in ("", "_low", "_high")), strict=True)
        table[question] = [f"{share:.2f} [{low:.2f}, {high:.2f}]" for share, low, high in bounds]
    table["tokens stored"] = summary["cache_tokens"].map("{:,}".format)
    table["MiB held"] = (summary["cache_bytes"] / 2**20).map("{:.1f}".format)
    table["tokens per question"] = summary["prompt_tokens"].map("{:,.0f}".format)
    table["first token (ms)"] = (1e3 * summary["ttft"]).map("{:.0f}".format)
    if "seconds" in summary:
        table["per chunk (ms)"] = (1e3 * summary["seconds"]).map("{:.0f}".format)
    return table


def paired_difference(answers: pd.DataFrame, by: str, base: str, seed: int) -> pd.DataFrame:
    """How much more each of the column `by` answers backward than `base` on the same streams: a table [difference, low, high].

    The difference of the shares of exact answers to title and history, with its 95% bootstrap interval (percentiles of 9,999
    draws of whole streams).
    """
    backward = answers[answers["question"] != "now"]
    shares = backward.pivot_table(index="stream", columns=by, values="correct", aggfunc="mean")
    rows = {}
    for name in answers[by].unique():
        difference = (shares[name] - shares[base]).to_numpy()
        bounds = np.nan, np.nan  # one stream has no spread
        if len(difference) > 1:
            drawn = bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(seed))
            bounds = drawn.confidence_interval
        rows[name] = [difference.mean(), *bounds]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high"])


def recommend(summary: pd.DataFrame, plain: str) -> str:
    """The cheapest whose answers, now and backward, both lie within the interval of the best; cheapest is the fewest bytes (a
    tenth more than `plain` counts as equal), then the least seconds. summary: of `summarise`, with seconds."""
    good = pd.Series(True, summary.index)
    for question in ("now", "backward"):
        good &= summary[question] >= summary.loc[summary[question].idxmax(), f"{question}_low"]
    cost = summary[["seconds"]].assign(size=(summary["cache_bytes"] / summary.loc[plain, "cache_bytes"]).clip(lower=1.1))
    return cost[good].sort_values(["size", "seconds"]).index[0]


def blame(model, processor, budget: int, lengths: tuple[int, int], ages, streams: int, seed: int) -> pd.DataFrame:
    """Why a stream that keeps its holes answers wrong: a table [stream, question, age, correct, reason].

    Every wrong answer is asked for again in two other worlds: the same tokens at contiguous positions, and the same positions
    with nothing evicted (`kvlib.lab.study.diagnosis.explain`).
    """

    def watch(stream: int) -> list[dict]:
        chunks = random.Random(f"length {seed + stream}").randint(*lengths)
        scenes, colors = draw_history_stream(chunks, ages, seed + stream)
        full = VideoStreamingInference(model, processor, model.device)
        gapped = VideoStreamingInference(model, processor, model.device, EvictionConfig(budget, position_mode="keep"))
        for frames in play(scenes):
            watch_together([full, gapped], frames)
        worlds = [ask_all(engine, scenes, colors) for engine in (gapped, full)]
        worlds.insert(1, ask_all(at_contiguous_positions(gapped), scenes, colors))
        return [
            dict(stream=stream, question=row["question"], age=row["age"], correct=row["correct"],
                 reason=explain(row["correct"], closed["correct"], everything["correct"]))
            for row, closed, everything in zip(*worlds, strict=True)
        ]  # fmt: skip

    return pd.DataFrame([row for rows in each_stream(watch, streams, model) for row in rows])


def attention(model, processor, budget: int, chunks: int, streams: int, seed: int, modes=("keep", "remap")) -> pd.DataFrame:
    """Where the question for the title looks after streams of `chunks` chunks: `attention_by_region` for every position mode,
    with the columns stream and position_mode."""

    def watch(stream: int) -> list[pd.DataFrame]:
        engines = engines_by_mode(model, processor, budget, modes)
        for frames in play(draw_stream(chunks, seed + stream)):
            watch_together(engines.values(), frames)
        question = QUESTIONS["title"][0]
        return [
            attention_by_region(engine, question).assign(stream=stream, position_mode=mode) for mode, engine in engines.items()
        ]

    return pd.concat([table for tables in each_stream(watch, streams, model) for table in tables], ignore_index=True)


def timeline(model, processor, engines: dict[str, Callable], chunks: int, seed: int) -> pd.DataFrame:
    """Which chunks are alive at each moment of one stream: a table [contender, moment, alive] of chunk numbers.

    Contenders without a record of their chunks are left out.
    """
    made = {name: make(model, processor) for name, make in engines.items()}
    made = {name: engine for name, engine in made.items() if isinstance(engine, VideoStreamingInference)}
    rows = []
    for moment, frames in enumerate(play(draw_stream(chunks, seed))):
        watch_together(made.values(), frames)
        for name, engine in made.items():
            rows += [dict(contender=name, moment=moment, alive=chunk.index) for chunk in engine.cache_manager.chunks]
    return pd.DataFrame(rows)


def drift(inverse_frequencies: torch.Tensor, turns: Sequence[int], step: int, seed: int) -> pd.DataFrame:
    """How far bf16 keys are off after `turns` rotations by `step` positions: a table [turns, method, error].

    method: "chain" rotates the last result again, "original" the kept original once (as kvlib does); error is relative to a
    rotation in fp32, ||found - exact|| / ||exact||, on 64 random keys.
    """
    size = 2 * len(inverse_frequencies)
    keys = torch.randn(64, size, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    chain, rows = keys, []
    for turn in range(1, max(turns) + 1):
        chain = rotate_keys(chain, step, inverse_frequencies)
        if turn in turns:
            exact = rotate_keys(keys.float(), step * turn, inverse_frequencies)
            for method, found in (("chain", chain), ("original", rotate_keys(keys, step * turn, inverse_frequencies))):
                error = ((found.float() - exact).norm() / exact.norm()).item()
                rows.append(dict(turns=turn, method=method, error=error))
    return pd.DataFrame(rows)
