"""What can be done about forgetting without training: ways to watch and to ask, each paid for on the same streams.

A stream's scenes stay on screen for `HOLD` chunks. Some ways need the questions before the content has gone (asking while the
stream runs, overlapping windows), the others only at the end.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from kvlib.evictor import EvictionConfig
from kvlib.lab.study.experiments import each_stream, judge, play, resize_to_height
from kvlib.lab.study.retention import ask_all, draw_history_stream, summarise
from kvlib.stream import VideoStreamingInference

HOLD = 2  # chunks


@dataclass(frozen=True)
class Strategy:
    """One way to watch a stream and to ask about it; the defaults are sink + window with the hole that eviction leaves.

    budget: tokens. position_mode: as in `EvictionConfig`. height: of the frames in pixels, 0 for their own. every: one of so
    many chunks is watched. phrasing: which of the wordings in `QUESTIONS`. interval: the questions are also asked after every
    so many chunks, and a real answer is remembered; 0 asks at the end alone. windows: no eviction; two engines watch in
    turn from an empty cache to a full one, half a budget apart, and are asked before they start anew.
    """

    budget: int
    position_mode: str = "keep"
    height: int = 0
    every: int = 1
    phrasing: int = 0
    interval: int = 0
    windows: bool = False


def strategies(budget: int, interval: int, height: int) -> dict[str, Strategy]:
    """What notebook 04 tries, each one change away from "keep"; `interval` in chunks, the lower `height` in pixels."""
    plain = Strategy(budget)
    return {
        "keep": plain,
        "remap": replace(plain, position_mode="remap"),
        "lower resolution": replace(plain, height=height),
        "lower frame rate": replace(plain, every=HOLD),
        "larger budget": replace(plain, budget=2 * budget),
        "ask while it runs": replace(plain, interval=interval),
        "overlapping windows": replace(plain, windows=True),
        "other wording": replace(plain, phrasing=1),
    }


def combine(plain: Strategy, first: Strategy, second: Strategy) -> Strategy:
    """The changes that two strategies make to `plain`, together."""
    changes = {}
    for strategy in (first, second):
        changes |= {name: value for name, value in asdict(strategy).items() if value != getattr(plain, name)}
    return replace(plain, **changes)


def best_pair(tried: pd.DataFrame, chosen: dict[str, Strategy]) -> dict[str, Strategy]:
    """The two of `chosen` that answer the most backward, beside "keep", joined: {"first + second": strategy}.

    tried: of `try_strategies`; of equals, the one that was tried first goes first.
    """
    backward = summarise(tried, "strategy").drop("keep")["backward"]
    first, second = backward.sort_values(ascending=False, kind="stable").index[:2]
    return {f"{first} + {second}": combine(chosen["keep"], chosen[first], chosen[second])}


class Viewer:
    """A strategy at work on one stream: `watch` every chunk, then `answers`.

    `watch_s` and `ask_s` are the seconds that went into watching and asking so far, `peak_tokens` and `peak_bytes` what its
    caches held at most, together, and `fill` the largest share of its budget that one of them ever stored.
    """

    def __init__(self, model, processor, strategy: Strategy, scenes: Sequence, colors: dict[int, str]):
        self.model, self.processor, self.strategy = model, processor, strategy
        self.scenes, self.colors = scenes, colors
        self.engines = [self._engine()]
        self.said, self.watch_s, self.ask_s = [], 0.0, 0.0
        self.peak_tokens, self.peak_bytes, self.fill = 0, 0, 0.0

    def watch(self, index: int, frames, encoded: dict) -> None:
        """Watch chunk `index`. encoded: what the vision tower made of this chunk, by height, shared among viewers."""
        if index % self.strategy.every:
            return
        if self.strategy.height:
            frames = resize_to_height(frames, self.strategy.height)
        if self.strategy.windows:
            self._begin_windows(frames)
        keys = [self._encode(engine, frames, encoded) for engine in self.engines]
        self.watch_s += sum(encoded[key][1] for key in set(keys))
        began = time.perf_counter()
        for engine, key in zip(self.engines, keys, strict=True):
            engine.append_encoded(encoded[key][0])
        self.watch_s += time.perf_counter() - began
        self._note_peaks()
        if self.strategy.interval and (index + 1) % self.strategy.interval == 0:
            self._ask(self.engines[0])

    def answers(self) -> list[dict]:
        """Ask at the end; the rows of `ask_all`, each with the answer that counts among all that were given."""
        for engine in sorted(self.engines, key=lambda engine: -engine.cache_manager.seen):
            self._ask(engine)
        final = self.said[-1]
        return [row | judge(self._choose(number), row["truth"]) for number, row in enumerate(final)]

    def _engine(self) -> VideoStreamingInference:
        mode = self.strategy.position_mode
        config = None if self.strategy.windows else EvictionConfig(self.strategy.budget, position_mode=mode)
        return VideoStreamingInference(self.model, self.processor, self.model.device, config)

    def _encode(self, engine, frames, encoded: dict) -> tuple:
        """The key in `encoded` of this chunk for this engine; there lie what the vision tower made, and its seconds."""
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
        """Ask a full engine and start it anew; start the second one when the first is half full."""
        for place, engine in enumerate(self.engines):
            if engine.cache_manager.get_seq_length() + engine.count_tokens(frames) > self.strategy.budget:
                self._ask(engine)
                self.engines[place] = self._engine()
        if len(self.engines) == 1 and 2 * self.engines[0].cache_manager.get_seq_length() > self.strategy.budget:
            self.engines.append(self._engine())

    def _ask(self, engine) -> None:
        began = time.perf_counter()
        self.said.append(ask_all(engine, self.scenes, self.colors, self.strategy.phrasing))
        self.ask_s += time.perf_counter() - began

    def _choose(self, number: int) -> str:
        """Of all answers to a question: the title's first, a card's last that names no missing card, else the last."""
        given = [rows[number]["answer"] for rows in self.said]
        if self.said[-1][number]["question"] == "title":
            return given[0]
        real = [answer for answer in given if not answer.lower().startswith("no ")]
        return real[-1] if self.said[-1][number]["question"] == "history" and real else given[-1]


def try_strategies(
    model, processor, chosen: dict[str, Strategy], scenes: int, ages: Sequence[int], streams: int, seed: int
) -> pd.DataFrame:
    """Let every strategy watch the same `streams` streams of `scenes` scenes and answer.

    A table [stream, strategy, question, age, truth, answer, correct, ttft, prompt_tokens, cache_tokens, cache_bytes, fill,
    seconds]; `age` in scenes, the caches' figures as in `Viewer`, `seconds` of watching and asking per chunk of the video.
    """

    def watch(stream: int) -> list[dict]:
        shown, colors = draw_history_stream(scenes, ages, seed + stream)
        viewers = {name: Viewer(model, processor, strategy, shown, colors) for name, strategy in chosen.items()}
        for index, frames in enumerate(play([scene for scene in shown for _ in range(HOLD)])):
            encoded = {}
            for viewer in viewers.values():
                viewer.watch(index, frames, encoded)
        rows = []
        for name, viewer in viewers.items():
            answers = viewer.answers()
            seconds = (viewer.watch_s + viewer.ask_s) / (HOLD * scenes)
            same = dict(stream=stream, strategy=name, seconds=seconds, fill=viewer.fill)
            same |= dict(cache_tokens=viewer.peak_tokens, cache_bytes=viewer.peak_bytes)
            rows += [same | row for row in answers]
        return rows

    return pd.DataFrame([row for rows in each_stream(watch, streams, model) for row in rows])
