import pytest

from kvlib import EvictionConfig, VideoStreamingInference

SINK, CHUNK = 54, 16  # tokens of a chunk of two frames of 56 x 84: the first has the system turn


@pytest.fixture
def streamed(model, processor, frames, partly_static):
    """Makes an engine that has processed chunks with seeds 0, 1, ..., each of `count` frames; with `drop_static` of partly
    static ones."""

    def make(
        chunks: int = 20,
        mode: str = "remap",
        archive="memory",
        count: int = 2,
        kv_dtype=None,
        recall=40,
        drop_static=0.0,
        **config,
    ):
        config = EvictionConfig(**(dict(max_cache_tokens=160, position_mode=mode, recall_tokens=recall) | config))
        engine = VideoStreamingInference(model, processor, "cpu", config, kv_dtype, archive, drop_static=drop_static)
        for seed in range(chunks):
            engine.append_video_chunk((partly_static if drop_static else frames)(count, seed))
        return engine

    return make
