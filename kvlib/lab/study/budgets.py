"""The memory limit of a run, the largest budget that is safe within it, and the file that remembers that budget."""

import json

import pandas as pd
import torch

from kvlib.lab.report import paths
from kvlib.lab.report.report import device_name, write_atomic
from kvlib.lab.study.runs import OUT_OF_MEMORY, stream_video
from kvlib.lab.video.source import VideoSource

CARD_LIMIT = int(23.3 * 2**30)  # bytes: what a 24 GB card leaves to a process
CPU_CACHE_LIMIT = int(10.5 * 2**20)  # bytes of cache: a small substitute for a card's memory, for the embedded reader
READER_BUDGETS = (600, 800, 1200)  # tokens, lowest, first, highest to try: the reader was trained on about 1000
MODEL_BUDGETS = (100_000, 130_000, 150_000)  # the same for real weights: Qwen2.5-VL-3B at 1080p on a 24 GB card


def cap_memory(limit_mb: float, device: torch.device) -> int:
    """The memory limit in bytes; `limit_mb` 0 stands for `CARD_LIMIT` on CUDA and `CPU_CACHE_LIMIT` on a CPU.

    On CUDA torch refuses the process more memory than that. On a CPU it is a limit on the cache's bytes, which `stream_video`
    checks after every chunk.
    """
    limit = int(limit_mb * 2**20) or (CARD_LIMIT if device.type == "cuda" else CPU_CACHE_LIMIT)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), index)
    return limit


def tune_budget(make_engine, source: VideoSource, budgets, limit_bytes: int):
    """Find the largest safe budget among the middle one of `budgets` (low, start, high), steps upward from it, and the low one.

    The share of `limit_bytes` that is reserved at most decides. Below 21/24 a higher budget is tried; from 21/24 to 23/24 the
    budget is kept; above, or when memory ends, the low one is tried. Each budget is streamed twice its own number of tokens:
    by then the cache is full and evicting, and its memory no longer grows. `make_engine(budget)` makes the engine; no other
    engine may hold memory meanwhile.

    Returns a table [budget, peak_share, chunks_in_window, verdict] and the largest safe budget, None when even the low one
    fails.
    """
    low, start, high = budgets
    step, tried, budget, best = max(1, (high - start) // 2), [], start, None
    while low <= budget <= high and budget not in [row["budget"] for row in tried]:
        engine = make_engine(budget)
        rows = stream_video(engine, source, f"budget {budget}", limit_bytes, 2 * budget)
        share = rows["reserved_bytes"].max() / limit_bytes
        failed = rows["event"].iloc[-1] == OUT_OF_MEMORY or share > 23 / 24
        verdict = "out of memory" if failed else "keep" if share >= 21 / 24 else "room left"
        tried.append(dict(budget=budget, peak_share=share, chunks_in_window=len(engine.cache_manager.chunks), verdict=verdict))
        if not failed:
            best = max(best or 0, budget)
        if verdict == "keep" or (failed and best is not None):
            break
        budget = budget + step if not failed else low
    return pd.DataFrame(tried), best


def default_budgets(model_path: str) -> tuple[int, int, int]:
    """The lowest, the first and the highest budget to try with a model, in tokens."""
    return READER_BUDGETS if paths.shown(model_path) == paths.DEFAULT_MODEL else MODEL_BUDGETS


def save_budget(tokens: int, model_path: str, device, output_dir: str = "") -> None:
    """Make `tokens` the default budget of this model on this device, for `choose_budget`."""
    path = paths.budgets_path(output_dir)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known.setdefault(device_name(device), {})[paths.shown(model_path)] = tokens
    write_atomic(path, json.dumps(known, indent=1, sort_keys=True))


def choose_budget(tokens: int, model_path: str, device, output_dir: str = "") -> tuple[int, str]:
    """The budget in tokens and where it comes from, in words.

    It is `tokens` unless that is 0; else what `save_budget` last stored for this model and device in this output folder; else
    the middle one of `default_budgets`.
    """
    if tokens:
        return tokens, "given"
    path = paths.budgets_path(output_dir)
    known = json.loads(path.read_text()) if path.is_file() else {}
    found = known.get(device_name(device), {}).get(paths.shown(model_path))
    if found:
        return found, f"found safe by 02_oom_free ({paths.shown(path)})"
    return default_budgets(model_path)[1], "the default, not yet tuned by 02_oom_free"
