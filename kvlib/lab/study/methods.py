"""The methods that are compared: engines with an eviction policy, the unbounded cache, and a baseline without a cache."""

import time
from collections import deque
from collections.abc import Callable, Iterable

from kvlib.evictor import EvictionConfig
from kvlib.policies import Importance
from kvlib.policies.scorers import SCORERS
from kvlib.prompts import DEFAULT_QUESTION
from kvlib.stream import VideoStreamingInference


def methods(budget: int, position_mode: str, drop_static: float = 0.0) -> dict[str, Callable]:
    """What is compared at `budget` tokens: name -> function of (model, processor) that makes an engine.

    The policies go by their names, the policy "importance" by the names of its scorers. "none" never evicts, so its memory is
    not bounded. "last_n" is `RecomputeRecent`: no cache, as many of the newest chunks as fit into the budget. `drop_static` is
    that of all engines but "last_n", which drops nothing.
    """

    def caching(config: EvictionConfig | None) -> Callable:
        return lambda model, processor: VideoStreamingInference(model, processor, model.device, config, drop_static=drop_static)

    def evicting(policy) -> Callable:
        return caching(EvictionConfig(budget, policy=policy, position_mode=position_mode))

    return {
        "none": caching(None),
        "sink_window": evicting("sink_window"),
        "uniform": evicting("uniform"),
        **{name: evicting(Importance(name)) for name in SCORERS},
        "last_n": lambda model, processor: RecomputeRecent(model, processor, model.device, budget),
    }


def engines_by_mode(model, processor, budget: int, modes: Iterable[str]) -> dict[str, VideoStreamingInference]:
    """A sink + window engine of `budget` tokens for every position mode."""
    configs = {mode: EvictionConfig(budget, position_mode=mode) for mode in modes}
    return {mode: VideoStreamingInference(model, processor, model.device, config) for mode, config in configs.items()}


def process_together(engines: Iterable, frames, fps: float = 2.0) -> None:
    """Append the same chunk of frames to several engines on one model; the vision tower encodes it only once.

    All engines must have processed the same chunks before. A `RecomputeRecent` gets the frames themselves.
    """
    chunk = None
    for engine in engines:
        if isinstance(engine, RecomputeRecent):
            engine.append_video_chunk(frames, fps)
            continue
        chunk = chunk or engine.encode(frames, fps)
        engine.append_encoded(chunk)


class RecomputeRecent:
    """Keeps the frames of the newest chunks instead of keys and values, and prefills them again when a question comes.

    It keeps as many chunks as fit into `max_cache_tokens`, so a question costs as many tokens as with a cache of that budget.
    Everything older is lost, and the prefill adds to the time to first token. The interface is that of
    `VideoStreamingInference`.
    """

    def __init__(self, model, processor, device, max_cache_tokens: int):
        self.model, self.processor, self.device = model, processor, device
        self.max_cache_tokens = max_cache_tokens
        self._kept: deque = deque()  # (frames, fps, tokens)
        self._discard_prefill()

    def append_video_chunk(self, frames, fps: float = 2.0) -> dict:
        """Keep one chunk of frames, as `VideoStreamingInference.append_video_chunk` takes it, and drop the oldest chunks.

        Returns `get_cache_info()`. Raises ValueError for frames that cannot be used and for a chunk that cannot fit.
        """
        tokens, first = self._engine.count_tokens(frames), self._engine.count_tokens(frames, first=True)
        if first > self.max_cache_tokens:
            raise ValueError(f"a chunk of {first} tokens does not fit into max_cache_tokens={self.max_cache_tokens}: raise it")
        self._kept.append((frames, fps, tokens))
        while sum(kept for *_, kept in self._kept) + first - tokens > self.max_cache_tokens:
            self._kept.popleft()
        self._discard_prefill()
        return self.get_cache_info()

    def ask(self, question: str = DEFAULT_QUESTION, **options) -> tuple[str, dict]:
        """Prefill the kept frames and answer; options and metrics as in `VideoStreamingInference.ask`.

        Questions at the same moment share one prefill. Its seconds are part of every `ttft`, and the frames' tokens are part
        of `prompt_tokens`.
        """
        if not self._prefill_seconds:
            began = time.perf_counter()
            for frames, fps, _ in self._kept:
                self._engine.append_video_chunk(frames, fps)
            self._prefill_seconds = time.perf_counter() - began
        answer, metrics = self._engine.ask(question, **options)
        prefilled = self._engine.cache_manager.get_seq_length()
        more = {"ttft": metrics["ttft"] + self._prefill_seconds, "prompt_tokens": metrics["prompt_tokens"] + prefilled}
        return answer, metrics | more

    def get_cache_info(self) -> dict:
        """What a question would prefill: `cache_seq_length` tokens of `chunks` chunks. Nothing is cached, so bytes are 0."""
        length = sum(tokens for *_, tokens in self._kept)
        return {"cache_seq_length": length, "chunks": len(self._kept), "cache_bytes": 0, "cache_memory_gb": 0.0}

    def _discard_prefill(self) -> None:
        self._engine, self._prefill_seconds = VideoStreamingInference(self.model, self.processor, self.device), 0.0
