"""kvlib: Qwen2.5-VL on an endless video within a fixed budget of cache."""

import os

# Threads that wait must sleep, not spin: on a busy machine spinning makes small models ten times slower. Read as torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ruff: noqa: E402
from kvlib.evictor import EvictionConfig, KVCacheEvictor
from kvlib.manager import KVCacheManager
from kvlib.model import StreamQwenModel, load_processor
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunks

__all__ = [
    "EvictionConfig",
    "KVCacheEvictor",
    "KVCacheManager",
    "StreamQwenModel",
    "VideoChunks",
    "VideoStreamingInference",
    "load_processor",
]
