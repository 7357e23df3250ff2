"""What is measured of a method and of the device: times, memory, the largest cache that fits, and the operations of a chunk."""

import statistics
from contextlib import ExitStack

import internals
import torch
from clock import Clock, free_memory, peak_bytes, reset_peak, timed
from methods import FPS, random_states

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.families import family_of
from kvlib.lab.video.calibration import head_size

EARLY, SPAN = 100, 50  # the long stream's early chunk, and the number of chunks before and after it in the median


def measured(method, frames, tokens: int, repeats: int, device: torch.device) -> dict:
    """Medians over `repeats` chunks and questions with a cache of `tokens` tokens, after a warm-up.

    Returns `seconds` of a chunk and of its stages, `ttft` (s), `decode_tokens_per_s`, `prompt_tokens` and `peak_bytes`, and the
    `spread` of the chunk and of both numbers of the question: the least and the largest of the repeats.
    """
    method.fill(tokens)
    clock = Clock(device)
    with ExitStack() as stages:
        for stage in method.stages(clock):
            stages.enter_context(stage)
        for repeat in range(repeats + 2):
            if repeat == 2:  # the warm-up ends here
                clock.seconds()
                reset_peak(device)
            with clock.stage("chunk"):
                method.append(frames)
            method.after_chunk(tokens)
        spans = clock.seconds()
        seconds = {name: statistics.median(found) for name, found in spans.items()}
        if "evict" in spans:  # once in several chunks the window moves to the front of its buffer: the median does not show it
            seconds["evict, mean"] = statistics.fmean(spans["evict"])
        peak = peak_bytes(device)
    method.ask()
    asked = [method.ask() for _ in range(repeats)]
    found = {name: [row[name] for row in asked] for name in ("ttft", "decode_tokens_per_s")}
    return {
        "seconds": seconds,
        **{name: statistics.median(values) for name, values in found.items()},
        "spread": {name: [min(values), max(values)] for name, values in {"chunk": spans["chunk"], **found}.items()},
        "prompt_tokens": asked[0]["prompt_tokens"],
        "peak_bytes": peak,
    }


def fits(make_for, frames, tokens: int) -> bool:
    """Whether the method `make_for(tokens)` can hold `tokens` tokens, process two more chunks and answer."""
    free_memory()
    try:
        method = make_for(tokens)
        method.fill(tokens)
        for _ in range(2):
            method.append(frames)
            method.after_chunk(tokens)
        method.ask()
        return True
    except torch.OutOfMemoryError:
        return False


def largest(make_for, frames, high: int) -> int:
    """The most tokens that fit, by bisection between 0 and `high`, which cannot fit; in steps of 10,000 tokens, or of 1,000
    below 200,000."""
    low, step = 0, 10_000 if high > 200_000 else 1_000
    high = -(-high // step) * step
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if fits(make_for, frames, middle) else (low, middle)
    return low


def bound(model, limit_bytes: int, dtype: torch.dtype) -> int:
    """How many tokens' keys and values in `dtype` take all memory that the model leaves of `limit_bytes`."""
    config = model.config.text_config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size(config) * dtype.itemsize
    return (limit_bytes - torch.cuda.memory_allocated(model.device)) // token


def ceilings(device: torch.device, dtype: torch.dtype) -> dict:
    """What the device reaches: a large matrix product in FLOP/s, and a large copy in bytes read and written per second."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    block = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device).to(dtype)
    other = torch.empty_like(block)
    return {
        "matmul_flops": 2 * side**3 / timed(lambda: a @ b, device),
        "copy_bytes": 2 * block.nbytes / timed(lambda: other.copy_(block), device),
    }


def flops(model, grid, tokens: int, past: int) -> dict[str, float]:
    """Floating-point operations that a chunk of `tokens` tokens after `past` cached ones needs: every matrix product once,
    attention only where it is not masked. `grid` is (t, h, w) in patches."""
    vision, text = model.config.vision_config, model.config.text_config
    patches, shape = grid[0] * grid[1] * grid[2], family_of(model.config).vision_shape(vision)
    matrices = {n: p.numel() for n, p in model.model.visual.named_parameters() if p.ndim > 1 and "pos_embed" not in n}
    merger = sum(count for name, count in matrices.items() if "merger" in name)
    dense = sum(matrices.values()) - merger
    seen = shape.whole * grid[1] * grid[2] + (vision.depth - shape.whole) * shape.window
    layers = sum(p.numel() for name, p in model.model.language_model.layers.named_parameters() if p.ndim > 1)
    heads = text.num_hidden_layers * text.num_attention_heads * head_size(text)
    return {
        "vision": 2 * patches * dense + 2 * patches / 4 * merger + 4 * patches * seen * shape.width,
        "language without attention": 2 * tokens * layers,
        "attention": 4 * heads * (tokens * past + tokens * (tokens + 1) / 2),
    }


def attention_alone(model, new: int, past: int, device: torch.device) -> dict:
    """Seconds and FLOP/s of one layer's attention of `new` tokens over `past` tokens and themselves."""
    config = model.config.text_config
    size = head_size(config)
    q = torch.randn(1, config.num_attention_heads, new, size, device=device, dtype=model.dtype)
    keys, values = next(random_states(model, past + new))
    seconds = timed(lambda: internals.chunk_attention(q, keys, values), device)
    done = 4 * q.shape[1] * size * new * (past + (new + 1) / 2)
    return {"new": new, "past": past, "seconds": seconds, "flops": done / seconds}


def long_stream(model, processor, frames, window: int, chunks: int, device: torch.device) -> dict:
    """Seconds per chunk and peak bytes, early and late in one stream of `chunks` chunks with `window` chunks in the cache.

    Raises ValueError when there are so few chunks that early and late ones would be the same.
    """
    if chunks < EARLY + 3 * SPAN:
        raise ValueError(f"{chunks} chunks are too few to compare early with late ones: give at least {EARLY + 3 * SPAN}")
    probe = VideoStreamingInference(model, processor, device)
    budget = probe.count_tokens(frames, first=True) + (window - 1) * probe.count_tokens(frames)
    engine = VideoStreamingInference(model, processor, device, EvictionConfig(budget, position_mode="remap"))
    clock, peaks = Clock(device), {}
    free_memory()
    reset_peak(device)
    for index in range(1, chunks + 1):
        with clock.stage("chunk"):
            engine.append_video_chunk(frames, FPS)
        if index == 50 or index == chunks:
            peaks[index] = peak_bytes(device)
    seconds = clock.seconds()["chunk"]
    early, late = seconds[EARLY - SPAN : EARLY + SPAN], seconds[-2 * SPAN :]
    return {
        "frames": list(frames.shape[:3]),
        "budget": budget,
        "chunks": chunks,
        "early_seconds": statistics.median(early),
        "late_seconds": statistics.median(late),
        "frames_per_s": len(frames) / statistics.median(late),
        "own_peak_bytes": peaks,
    }
