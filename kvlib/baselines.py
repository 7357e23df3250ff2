"""The honest baseline: no memory at all, the last frames encoded anew for every question."""

import time
from collections import deque

from kvlib.stream import DEFAULT_QUESTION, VideoStreamingInference


class LastFrames:
    """Keeps the frames of the last `chunks` chunks and no key or value; watches them anew whenever it is asked.

    The interface is that of `VideoStreamingInference`. With as many chunks as a cache of some budget holds, it costs as many
    tokens at the moment of the question; it then knows nothing older, and pays for the encoding with time to first token.
    Raises ValueError for less than one chunk.
    """

    def __init__(self, model, processor, device, chunks: int):
        if chunks < 1:
            raise ValueError(f"chunks={chunks}: keep at least 1")
        self.model, self.processor, self.device = model, processor, device
        self.frames: deque = deque(maxlen=chunks)

    def append_video_chunk(self, frames, fps: float = 2.0) -> dict:
        """Keep one chunk of frames, as `VideoStreamingInference.append_video_chunk` takes it; the oldest gives way."""
        self.frames.append((frames, fps))
        return self.get_cache_info()

    def ask(self, question: str = DEFAULT_QUESTION, **options) -> tuple[str, dict]:
        """Watch what is kept and answer; options and metrics as in `VideoStreamingInference.ask`.

        `ttft` includes the watching; `cache_seq_length` says how many tokens that took.
        """
        began = time.perf_counter()
        engine = VideoStreamingInference(self.model, self.processor, self.device)
        for frames, fps in self.frames:
            engine.append_video_chunk(frames, fps)
        watching = time.perf_counter() - began
        answer, metrics = engine.ask(question, **options)
        length = engine.cache_manager.get_seq_length()
        return answer, metrics | {"ttft": metrics["ttft"] + watching, "cache_seq_length": length}

    def get_cache_info(self) -> dict:
        """Between questions nothing is cached: `chunks` kept as frames, all lengths and bytes 0."""
        return {"cache_seq_length": 0, "chunks": len(self.frames), "cache_bytes": 0, "cache_memory_gb": 0.0}
