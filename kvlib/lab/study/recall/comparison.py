"""Ways to answer about the past, with and without recall, on the same streams and at equal device memory.

The room that recall needs during a question is part of the budget: the stream itself stores that much less.
"""

import random
from collections.abc import Iterable, Sequence

import pandas as pd

from kvlib.archive.recall import LastQueries
from kvlib.evictor import EvictionConfig
from kvlib.lab.study.clips import encode_and_decode
from kvlib.lab.study.methods import methods, process_together
from kvlib.lab.study.retention import MAX_NEW_TOKENS, draw_history_stream
from kvlib.lab.study.runs import each_stream
from kvlib.lab.study.scoring import exact_match
from kvlib.lab.study.synthetic import COLORS, QUESTIONS, Scene, answer
from kvlib.policies import Importance
from kvlib.stream import VideoStreamingInference

TRUE, RANDOM = "true chunk", "random"
# Chunks that fit into the room for recall -> way -> the argument `recall`. Ways in one row share an engine.
WAYS = {
    2: {"recall 1": 1, "recall 2": 2, "recall auto": "auto", TRUE: TRUE, RANDOM: RANDOM},
    4: {"recall 4": 4},
}
WITHOUT = ("keep", "remap", "surprise", "last_n")
WITH = tuple(way for ways in WAYS.values() for way in ways)
NEVER = "never shown"


def compare_recall(
    model, processor, budget: int, chunks: int, ages: Sequence[int], streams: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let every way process the same `streams` streams of `chunks` chunks, and ask it at the end.

    Without recall: sink + window in the position modes "keep" and "remap", the policy "surprise" (`remap`), and `last_n`. With
    recall (sink + window, `remap`, archive in memory): the best 1, 2 or 4 chunks, "auto", the chunk that was asked for (an
    upper bound), and two other evicted chunks at random (a negative control).

    Questions: now, title, a card at each age, and a card in a colour that was never shown. Returns the answers, [stream,
    chunks, method, question, age, truth, answer, correct, recalled (number of chunks), ttft, unchanged (whether the fingerprint
    of the stream is the same after the question), cache_tokens, cache_bytes, archived_bytes, index_bytes], and the rankings of
    `rank_evicted` with the columns stream, chunks, question and age.

    Raises ValueError for ages that leave no colour for the card that is never shown.
    """
    if len(ages) >= len(COLORS):
        raise ValueError(f"{len(ages)} ages: give at most {len(COLORS) - 1}, so that one colour is never shown")

    def process(stream: int) -> tuple[list[dict], list[dict]]:
        scenes, colors = draw_history_stream(chunks, ages, seed + stream)
        frames = list(encode_and_decode(scenes))
        engines = make_engines(model, processor, budget, frames[0])
        for chunk in frames:
            process_together(engines.values(), chunk)
        asked, same = list_questions(scenes, colors), dict(stream=stream, chunks=chunks)
        rows, rankings = [], []
        for name, engine in engines.items():
            rows += [same | row for row in _answers(engine, name, asked, seed + stream)]
        engine = engines[2]
        for row in asked:
            ranked = rank_evicted(engine, row["text"], row["chunk"], scenes)
            rankings += [same | dict(question=row["question"], age=row["age"]) | ranked] if ranked else []
        return rows, rankings

    done = each_stream(process, streams, model)
    return tuple(pd.DataFrame([row for part in done for row in part[which]]) for which in (0, 1))


def make_engines(model, processor, budget: int, frames) -> dict:
    """An engine for each way without recall, by its name, and for each number of chunks in `WAYS`, by that number.

    frames: those of a chunk, uint8 [T, H, W, 3]; recall has room for whole chunks of this size.
    """
    ready = methods(budget, "remap")
    configs = {
        "keep": EvictionConfig(budget, position_mode="keep"),
        "remap": EvictionConfig(budget),
        "surprise": EvictionConfig(budget, policy=Importance("surprise")),
    }
    engines = {name: VideoStreamingInference(model, processor, model.device, config) for name, config in configs.items()}
    tokens = engines["keep"].count_tokens(frames)
    for fitting in WAYS:
        config = EvictionConfig(budget, recall_tokens=fitting * tokens)
        engines[fitting] = VideoStreamingInference(model, processor, model.device, config, archive="memory")
    return engines | {"last_n": ready["last_n"](model, processor)}


def list_questions(scenes: Sequence[Scene], colors: dict[int, str]) -> list[dict]:
    """What is asked after a stream: rows [question, age, text, truth, chunk].

    chunk: the number of the chunk that holds the answer; -1 for the card that was never shown, whose age is -1 too.
    """
    last = len(scenes) - 1
    absent = next(color for color in COLORS if color not in colors.values())
    asked = [("now", 0, "now", None), ("title", last, "title", None)]
    asked += [("history", age, "card", color) for age, color in colors.items()] + [(NEVER, -1, "card", absent)]
    return [
        dict(
            question=name,
            age=age,
            text=QUESTIONS[kind][0].format(color=color),
            truth=answer(scenes, kind, color),
            chunk=-1 if name == NEVER else last - age,
        )
        for name, age, kind, color in asked
    ]


def rank_evicted(engine: VideoStreamingInference, question: str, chunk: int, scenes: Sequence[Scene]) -> dict | None:
    """How the archive ranks its evicted chunks for a question, None when nothing was evicted.

    chunk: the number of the chunk that holds the answer. Returns `evicted` (how many), `first` (what the chunk ranked first
    shows, see `describe`), `first_times` (its share of the attention over an even share), and of the chunk asked for
    `found` (whether it was evicted), `rank` (1 = first; NaN when it was not evicted) and `times`.
    """
    manager = engine.cache_manager
    evicted = manager.state.evicted
    if not evicted:
        return None
    last = LastQueries(engine.model.model.language_model.rotary_emb, manager.next_position)
    engine.question_logits(question, last)
    shares = manager.archive.index.shares(last.without_rotation(), evicted)
    order, even = [*shares], 1 / len(shares)
    found = chunk in shares
    return dict(
        evicted=len(evicted),
        first="the chunk asked for" if order[0] == chunk else describe(scenes[order[0]]),
        first_times=shares[order[0]] / even,
        found=found,
        rank=order.index(chunk) + 1 if found else float("nan"),
        times=shares[chunk] / even if found else float("nan"),
    )


def describe(scene: Scene) -> str:
    """What a scene shows: "another card", "text" or "a blank screen"."""
    return "another card" if scene.color else "text" if scene.text else "a blank screen"


def _answers(engine, name: str | int, asked: Iterable[dict], seed: int) -> list[dict]:
    """The rows of one engine, which serves one way, or all those of `WAYS[name]`."""
    info = engine.get_cache_info()
    same = dict(
        cache_tokens=info["cache_seq_length"],
        cache_bytes=info["cache_bytes"],
        archived_bytes=info.get("archived_bytes", 0),
        index_bytes=info.get("archive_index_bytes", 0),
    )
    rows = []
    for way, recall in WAYS.get(name, {name: 0}).items():
        for row in asked:
            options = {"recall": _recall(engine, recall, row["chunk"], seed)} if name in WAYS else {}
            before = _fingerprint(engine)
            said, metrics = engine.ask(row["text"], max_new_tokens=MAX_NEW_TOKENS, do_sample=False, **options)
            rows.append(
                {key: row[key] for key in ("question", "age", "truth")}
                | dict(method=way, answer=said, correct=exact_match(said, row["truth"]), ttft=metrics["ttft"])
                | dict(recalled=len(metrics["recalled"]), unchanged=_fingerprint(engine) == before)
                | same
            )
    return rows


def _recall(engine: VideoStreamingInference, recall: int | str, chunk: int, seed: int) -> int | str | list[int]:
    """The argument `recall` of `ask` for a question whose answer is in `chunk`."""
    if recall not in (TRUE, RANDOM):
        return recall
    evicted = engine.cache_manager.state.evicted
    if recall == TRUE:
        return [chunk] if chunk in evicted else 0
    others = [number for number in evicted if number != chunk]
    return random.Random(f"recall {seed} {chunk}").sample(others, min(2, len(others)))


def _fingerprint(engine) -> object:
    """That of the stream; None for an engine without a cache."""
    return engine.cache_manager.fingerprint() if isinstance(engine, VideoStreamingInference) else None
