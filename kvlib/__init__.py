"""kvlib: Qwen2-VL, Qwen2.5-VL and Qwen3-VL on an endless video within a fixed budget of cache."""

import importlib
import os
from typing import TYPE_CHECKING

# Threads that wait must sleep, not spin: on a busy machine spinning makes small models ten times slower. Read as torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ruff: noqa: F401
if TYPE_CHECKING:  # for editors and type checkers
    from kvlib.evictor import EvictionConfig, KVCacheEvictor
    from kvlib.manager import KVCacheManager
    from kvlib.model import StreamQwenModel, load_processor
    from kvlib.stream import VideoStreamingInference
    from kvlib.video import VideoChunks

MODULES = {
    "EvictionConfig": "kvlib.evictor",
    "KVCacheEvictor": "kvlib.evictor",
    "KVCacheManager": "kvlib.manager",
    "StreamQwenModel": "kvlib.model",
    "VideoChunks": "kvlib.video",
    "VideoStreamingInference": "kvlib.stream",
    "load_processor": "kvlib.model",
}
__all__ = list(MODULES)


def __getattr__(name: str):
    """Import a public name when it is first used: torch and transformers take seconds, which `kvlib --help` does not need."""
    if name not in MODULES:
        raise AttributeError(f"module 'kvlib' has no attribute {name!r}")
    value = getattr(importlib.import_module(MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
