"""The honest baseline: no memory at all, the last frames encoded anew for every question."""

import time
from collections import deque

from kvlib.stream import DEFAULT_QUESTION, VideoStreamingInference


class LastFrames:
    """Keeps the frames of the last chunks and no key or value; watches them anew when it is asked.

    It keeps as many chunks as fit into `max_cache_tokens`, so a question costs as many tokens as with a cache of that budget.
    It knows nothing older, and pays for the watching with time to first token. The interface is that of
    `VideoStreamingInference`.
    """

    def __init__(self, model, processor, device, max_cache_tokens: int):
        self.model, self.processor, self.device = model, processor, device
        self.max_cache_tokens = max_cache_tokens
        self._kept: deque = deque()  # (frames, fps, tokens)
        self._forget_watched()

    def append_video_chunk(self, frames, fps: float = 2.0) -> dict:
        """Keep one chunk of frames, as `VideoStreamingInference.append_video_chunk` takes it; the oldest give way.

        Raises ValueError for frames that cannot be used and for a chunk that cannot fit.
        """
        tokens, first = self._engine.count_tokens(frames), self._engine.count_tokens(frames, first=True)
        if first > self.max_cache_tokens:
            raise ValueError(f"a chunk of {first} tokens does not fit into max_cache_tokens={self.max_cache_tokens}: raise it")
        self._kept.append((frames, fps, tokens))
        while sum(kept for *_, kept in self._kept) + first - tokens > self.max_cache_tokens:
            self._kept.popleft()
        self._forget_watched()
        return self.get_cache_info()

    def ask(self, question: str = DEFAULT_QUESTION, **options) -> tuple[str, dict]:
        """Watch what is kept and answer; options and metrics as in `VideoStreamingInference.ask`.

        `ttft` includes the watching, which questions at the same moment share; `prompt_tokens` includes the frames' tokens.
        """
        if not self._watching:
            began = time.perf_counter()
            for frames, fps, _ in self._kept:
                self._engine.append_video_chunk(frames, fps)
            self._watching = time.perf_counter() - began
        answer, metrics = self._engine.ask(question, **options)
        watched = self._engine.cache_manager.get_seq_length()
        more = {"ttft": metrics["ttft"] + self._watching, "prompt_tokens": metrics["prompt_tokens"] + watched}
        return answer, metrics | more

    def get_cache_info(self) -> dict:
        """What a question would take: `cache_seq_length` tokens, of `chunks` chunks; nothing is cached, so bytes are 0."""
        length = sum(tokens for *_, tokens in self._kept)
        return {"cache_seq_length": length, "chunks": len(self._kept), "cache_bytes": 0, "cache_memory_gb": 0.0}

    def _forget_watched(self) -> None:
        self._engine, self._watching = VideoStreamingInference(self.model, self.processor, self.device), 0.0
