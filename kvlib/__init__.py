"""kvlib: Qwen2.5-VL on an endless video within a fixed budget of cache."""

from kvlib.evictor import EvictionConfig, KVCacheEvictor
from kvlib.manager import KVCacheManager
from kvlib.model import StreamQwenModel, load_processor
from kvlib.stream import VideoStreamingInference

__all__ = [
    "EvictionConfig",
    "KVCacheEvictor",
    "KVCacheManager",
    "StreamQwenModel",
    "VideoStreamingInference",
    "load_processor",
]
