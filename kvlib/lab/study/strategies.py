"""Strategies against forgetting that need no training: quality and cost of each, measured on the same streams.

A scene of a stream stays on screen for `CHUNKS_PER_SCENE` chunks. Two strategies (asking while the stream runs, overlapping
windows) must know the questions while their content is still in the cache; the others need them only at the end.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from kvlib.evictor import EvictionConfig
from kvlib.lab.study.clips import encode_and_decode
from kvlib.lab.study.retention import ask_all, draw_history_stream
from kvlib.lab.study.runs import each_stream
from kvlib.lab.study.scoring import exact_match
from kvlib.lab.study.statistics import BACKWARD
from kvlib.lab.video.source import resize_to_height
from kvlib.stream import VideoStreamingInference

CHUNKS_PER_SCENE = 2


@dataclass(frozen=True)
class Strategy:
    """One way to process a stream and to ask about it; the defaults are sink + window in the position mode "keep".

    budget: tokens. position_mode: as in `EvictionConfig`. height: of the frames in pixels; 0 leaves them as they are. every:
    only every so many-th chunk is processed. phrasing: the number of the wording in `QUESTIONS`. interval: the questions are
    also asked after every so many chunks; 0 asks only at the end. windows: instead of eviction, two engines fill an empty cache
    up to the budget, half a budget apart; each is asked when it is full and then starts again with an empty cache. recall: what
    is evicted is archived in host memory, and a question recalls up to so many chunks, within the budget; 0 = no archive.
    """

    budget: int
    position_mode: str = "keep"
    height: int = 0
    every: int = 1
    phrasing: int = 0
    interval: int = 0
    windows: bool = False
    recall: int = 0


def strategies(budget: int, interval: int, height: int) -> dict[str, Strategy]:
    """The strategies of notebook 04; each differs from "keep" in one field. `interval` in chunks, `height` in pixels."""
    plain = Strategy(budget)
    return {
        "keep": plain,
        "remap": replace(plain, position_mode="remap"),
        "lower resolution": replace(plain, height=height),
        "lower frame rate": replace(plain, every=CHUNKS_PER_SCENE),
        "larger budget": replace(plain, budget=2 * budget),
        "ask while it runs": replace(plain, interval=interval),
        "overlapping windows": replace(plain, windows=True),
        "other wording": replace(plain, phrasing=1),
        "recall": replace(plain, recall=2),
    }


def combine(plain: Strategy, first: Strategy, second: Strategy) -> Strategy:
    """The changes that two strategies make to `plain`, together."""
    changes = {}
    for strategy in (first, second):
        changes |= {name: value for name, value in asdict(strategy).items() if value != getattr(plain, name)}
    return replace(plain, **changes)


def best_pair(tried: pd.DataFrame, chosen: dict[str, Strategy]) -> dict[str, Strategy]:
    """The two of `chosen`, without "keep", with the most exact backward answers, combined: {"first + second": strategy}.

    tried: the table of `try_strategies`. Of strategies with equal shares the one that was tried first counts as better.
    """
    asked = tried[tried["question"].isin(BACKWARD) & (tried["strategy"] != "keep")]
    backward = asked.groupby("strategy", sort=False)["correct"].mean()
    first, second = backward.sort_values(ascending=False, kind="stable").index[:2]
    return {f"{first} + {second}": combine(chosen["keep"], chosen[first], chosen[second])}


class StrategyRunner:
    """Applies a strategy to one stream: `process` every chunk, then call `answers`.

    `process_s` and `ask_s` are the seconds spent so far on processing and on asking. `peak_tokens` and `peak_bytes` are the
    most that its caches held together. `fill` is the largest share of the budget that one cache ever stored.
    """

    def __init__(self, model, processor, strategy: Strategy, scenes: Sequence, colors: dict[int, str]):
        self.model, self.processor, self.strategy = model, processor, strategy
        self.scenes, self.colors = scenes, colors
        self.engines = [self._engine()]
        self.said, self.process_s, self.ask_s = [], 0.0, 0.0
        self.peak_tokens, self.peak_bytes, self.fill = 0, 0, 0.0

    def process(self, index: int, frames, encoded: dict) -> None:
        """Process chunk `index`: uint8 frames [T, H, W, 3].

        encoded: the vision tower's results for this chunk, by height. All runners share it; this one adds what is missing.
        """
        if index % self.strategy.every:
            return
        if self.strategy.height:
            frames = resize_to_height(frames, self.strategy.height)
        if self.strategy.windows:
            self._begin_windows(frames)
        keys = [self._encode(engine, frames, encoded) for engine in self.engines]
        self.process_s += sum(encoded[key][1] for key in set(keys))
        began = time.perf_counter()
        for engine, key in zip(self.engines, keys, strict=True):
            engine.append_encoded(encoded[key][0])
        self.process_s += time.perf_counter() - began
        self._note_peaks()
        if self.strategy.interval and (index + 1) % self.strategy.interval == 0:
            self._ask(self.engines[0])

    def answers(self) -> list[dict]:
        """Ask at the end: the rows of `ask_all`, each with the one answer that is scored among all that were given."""
        for engine in sorted(self.engines, key=lambda engine: -engine.cache_manager.seen):
            self._ask(engine)
        final = self.said[-1]
        chosen = [self._choose(number) for number in range(len(final))]
        return [
            row | dict(answer=said, correct=exact_match(said, row["truth"])) for row, said in zip(final, chosen, strict=True)
        ]

    def _engine(self) -> VideoStreamingInference:
        mode = self.strategy.position_mode
        config = None if self.strategy.windows else EvictionConfig(self.strategy.budget, position_mode=mode)
        archive = "memory" if self.strategy.recall else None
        return VideoStreamingInference(self.model, self.processor, self.model.device, config, archive=archive)

    def _encode(self, engine, frames, encoded: dict) -> tuple:
        """The key of this chunk for this engine in `encoded`; its value is the encoded chunk and the seconds it took."""
        key = self.strategy.height, not engine.cache_manager.chunks
        if key not in encoded:
            began = time.perf_counter()
            chunk = engine.encode(frames)
            encoded[key] = chunk, time.perf_counter() - began
        return key

    def _note_peaks(self) -> None:
        held = [engine.get_cache_info() for engine in self.engines]
        tokens = [info["cache_seq_length"] for info in held]
        self.peak_tokens = max(self.peak_tokens, sum(tokens))
        self.peak_bytes = max(self.peak_bytes, sum(info["cache_bytes"] for info in held))
        self.fill = max(self.fill, max(tokens) / self.strategy.budget)

    def _begin_windows(self, frames) -> None:
        """Ask a full engine and replace it by an empty one; add the second engine when the first is half full."""
        for position, engine in enumerate(self.engines):
            if engine.cache_manager.get_seq_length() + engine.count_tokens(frames) > self.strategy.budget:
                self._ask(engine)
                self.engines[position] = self._engine()
        if len(self.engines) == 1 and 2 * self.engines[0].cache_manager.get_seq_length() > self.strategy.budget:
            self.engines.append(self._engine())

    def _ask(self, engine) -> None:
        began = time.perf_counter()
        self.said.append(ask_all(engine, self.scenes, self.colors, self.strategy.phrasing, self.strategy.recall))
        self.ask_s += time.perf_counter() - began

    def _choose(self, number: int) -> str:
        """Which of all answers to a question is scored.

        For the title the first one, for a card the last one that does not begin with "No ", otherwise the last one.
        """
        given = [rows[number]["answer"] for rows in self.said]
        if self.said[-1][number]["question"] == "title":
            return given[0]
        real = [answer for answer in given if not answer.lower().startswith("no ")]
        return real[-1] if self.said[-1][number]["question"] == "history" and real else given[-1]


def try_strategies(
    model, processor, chosen: dict[str, Strategy], scenes: int, ages: Sequence[int], streams: int, seed: int
) -> pd.DataFrame:
    """Let every strategy process the same `streams` streams of `scenes` scenes and answer.

    A table [stream, strategy, question, age, truth, answer, correct, ttft, prompt_tokens, cache_tokens, cache_bytes, fill,
    seconds]. `age` in scenes; `cache_tokens`, `cache_bytes` and `fill` are the peaks of `StrategyRunner`; `seconds` are those
    of processing and asking, per chunk of the video.
    """

    def process(stream: int) -> list[dict]:
        shown, colors = draw_history_stream(scenes, ages, seed + stream)
        runners = {name: StrategyRunner(model, processor, strategy, shown, colors) for name, strategy in chosen.items()}
        for index, frames in enumerate(encode_and_decode([scene for scene in shown for _ in range(CHUNKS_PER_SCENE)])):
            encoded = {}
            for runner in runners.values():
                runner.process(index, frames, encoded)
        rows = []
        for name, runner in runners.items():
            answers = runner.answers()
            seconds = (runner.process_s + runner.ask_s) / (CHUNKS_PER_SCENE * scenes)
            same = dict(stream=stream, strategy=name, seconds=seconds, fill=runner.fill)
            same |= dict(cache_tokens=runner.peak_tokens, cache_bytes=runner.peak_bytes)
            rows += [same | row for row in answers]
        return rows

    return pd.DataFrame([row for rows in each_stream(process, streams, model) for row in rows])
