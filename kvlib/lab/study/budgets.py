"""The memory limit of a run, the largest budget that holds within it, and the file that remembers that budget."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import psutil
import torch

from kvlib.lab.report import paths
from kvlib.lab.report.report import device_name, write_atomic
from kvlib.lab.study.runs import OUT_OF_MEMORY, stream_video
from kvlib.lab.video.calibration import Forecast
from kvlib.lab.video.source import VideoSource
from kvlib.manager import MOST_SLACK, QUESTION_ROOM, SLACK

CARD_LIMIT = int(23.3 * 2**30)  # bytes: what a 24 GB card leaves to a process
CPU_CACHE_LIMIT = int(10.5 * 2**20)  # bytes of cache: a small substitute for a card's memory, for the embedded reader
READER_BUDGETS = (800, 2500)  # tokens, of the first run and at most: the reader was trained on up to 44 chunks of 57
MODEL_BUDGET = 130_000  # tokens of the first run with real weights: Qwen2.5-VL-3B at 1080p on a 24 GB card
TOLERANCE = 0.02  # of the budget: the search ends where what holds and what does not are no further apart
MOST_TRIES = 8
STEP_DOWN = 0.94  # of a budget that did not hold, is tried at the lowest
QUESTION = "What text is on screen now?"  # asked at the end of every try: an answer needs memory too


def cap_memory(limit_mb: float, device: torch.device, model_path: str = "") -> int:
    """The memory limit in bytes. `limit_mb` 0 stands for `CARD_LIMIT` on CUDA; on a CPU for `CPU_CACHE_LIMIT` with the embedded
    reader and for half of the free memory with another model.

    On CUDA torch refuses the process more memory than that; the limit is never more than the card has free. On a CPU it is a
    limit on the cache's bytes, which `stream_video` checks after every chunk.
    """
    limit = int(limit_mb * 2**20)
    if device.type != "cuda":
        return limit or (CPU_CACHE_LIMIT if paths.is_reader(model_path) else psutil.virtual_memory().available // 2)
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    limit = min(limit or CARD_LIMIT, free + torch.cuda.memory_reserved(index))
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), index)
    return limit


def held_bytes(device: torch.device) -> int:
    """Bytes of the memory limit that are taken before a stream begins: the weights on CUDA, nothing on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def budget_within(tokens: float) -> int:
    """The largest budget whose buffers hold at most so many `tokens`: they are longer than the budget."""
    behind = tokens - QUESTION_ROOM
    return max(0, int(max(behind / (1 + SLACK), behind - MOST_SLACK)))


def first_budget(model_path: str, chunk: Forecast, chunks: int, limit_bytes: int, held: int) -> int:
    """The budget in tokens of a first run that evicts: `MODEL_BUDGET` or that of the embedded reader, or less.

    Not more than half the tokens of the video's `chunks`, so that there is something to evict, nor than two thirds of what the
    memory beside `held` bytes can hold at all; but room for the first chunk and four more, as far as the model is known to
    read so many tokens.
    """
    limits = [READER_BUDGETS[0] if paths.is_reader(model_path) else MODEL_BUDGET]
    limits.append(budget_within((limit_bytes - held) / chunk.token_bytes) * 2 // 3)
    limits.append(chunks * chunk.tokens // 2)
    few = chunk.first_tokens + 4 * chunk.tokens
    return max(min(limits), min(few, most_tokens(model_path) or few))


def check_room(budget: int, chunk: Forecast) -> None:
    """Raise ValueError for a budget that has no room for the first chunk and one more."""
    least = chunk.first_tokens + chunk.tokens
    if budget < least:
        raise ValueError(
            f"MAX_CACHE_TOKENS={budget}: the first chunk and one more of {chunk.size[0]} frames of "
            f"{chunk.size[2]}x{chunk.size[1]} take {least:,} tokens; give at least that, or a smaller HEIGHT or CHUNK_FRAMES"
        )


@dataclass(frozen=True)
class Repeated:
    """A source that begins again when the video ends, so that a short video can fill a large budget."""

    source: VideoSource

    def chunks(self, label: str) -> Iterator[tuple]:
        """Index, counted through, and chunk; without end. Raises ValueError when the source gives no chunk any more."""
        number, before = 0, -1
        while number > before:
            before = number
            for _, chunk in self.source.chunks(label):
                yield number, chunk
                number += 1
        raise ValueError(f"{self.source} gives no more frames, so that no cache can be filled: give a video file")


@dataclass(frozen=True)
class Limit:
    """What `find_limit` found: the largest `budget` that held (None: not even the lowest), what ended the search (`ended`), and
    a table of the tries [budget, held, peak_bytes, chunks_in_window, chunks, outcome]."""

    budget: int | None
    ended: str
    tried: pd.DataFrame


def find_limit(make_engine: Callable, source: VideoSource, chunk: Forecast, limit_bytes: int, most: int | None = None) -> Limit:
    """Find the largest budget that holds within `limit_bytes`, to `TOLERANCE`, by filling caches.

    make_engine: makes an engine of a budget in tokens. No other engine may hold memory meanwhile. chunk: what a chunk of
    `source` takes. most: a budget that must not be exceeded, whatever the memory; the search ends there.

    A budget that surely does not fit is known from the bytes of a token. A small one is filled first: what it needs beside its
    buffers predicts what fits. The tries that follow bracket the limit; at most `MOST_TRIES` in all.
    """
    gc.collect()  # an engine that is no longer used must not count as held
    token_bytes, room = chunk.token_bytes, limit_bytes - held_bytes(chunk.device)
    fits, fails = 0, budget_within(room / token_bytes) + 1
    most = min(most or fails, fails)
    guess, tried = min(chunk.first_tokens + 4 * chunk.tokens, most), []
    while guess < fails and len(tried) < MOST_TRIES:
        row = try_budget(make_engine, guess, source, limit_bytes)
        tried.append(row)
        if row["held"]:
            fits = guess
            spare = (limit_bytes - row["peak_bytes"]) / token_bytes
            predicted = budget_within(row["capacity"] + spare)
        else:
            fails = guess
        if not fits or fits == most or fails - fits <= TOLERANCE * fails:
            break
        guess = min(next_guess(fits, fails, predicted), most)
    table = pd.DataFrame(tried, columns=["budget", "held", "peak_bytes", "capacity", "chunks_in_window", "chunks", "outcome"])
    return Limit(fits or None, _ended(fits, fails, most, limit_bytes, table), table.drop(columns="capacity"))


def next_guess(fits: int, fails: int, predicted: int) -> int:
    """What to try between a budget that `fits` and one that `fails`, more than `TOLERANCE` apart.

    Just below the predicted limit; when that has been done, just above what fits, which settles it if it fails; and where
    less than predicted has failed, the middle, but not far below.
    """
    guess = int(predicted * (1 - TOLERANCE / 2))
    if guess < fits * (1 + TOLERANCE / 2):
        guess = int(fits * (1 + 0.9 * TOLERANCE))
    if guess >= fails:
        guess = max((fits + fails) // 2, int(fails * STEP_DOWN))
    return min(max(guess, fits + 1), fails - 1)


def try_budget(make_engine: Callable, budget: int, source: VideoSource, limit_bytes: int) -> dict:
    """Fill a cache of `budget` tokens until its buffers have been full once, evict, ask, and copy a layer as the fingerprint of
    a stream does: a row of `Limit.tried` and the `capacity` of the buffers. All memory is given back, also when it ended."""
    row = dict(budget=budget, held=False, peak_bytes=0, capacity=0, chunks_in_window=0, chunks=0, outcome=OUT_OF_MEMORY)
    try:
        engine = make_engine(budget)
        capacity = engine.cache_manager.state.capacity
        rows = stream_video(engine, Repeated(source), f"budget {budget:,}", limit_bytes, capacity)
        row |= dict(chunks_in_window=len(engine.cache_manager.chunks), chunks=len(rows), capacity=capacity)
        row["peak_bytes"] = int(rows["peak_bytes"].max())
        if rows["event"].iloc[-1] != OUT_OF_MEMORY:
            engine.ask(QUESTION, max_new_tokens=4, do_sample=False)
            state = engine.cache_manager.state
            state.buffers[0][..., state.start : state.stop, :].clone()
            if engine.device.type == "cuda":
                row["peak_bytes"] = torch.cuda.max_memory_allocated(engine.device)
            row |= dict(held=True, outcome="held")
    except torch.OutOfMemoryError:
        pass
    engine = state = None  # for the memory of the cache
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def _ended(fits: int, fails: int, most: int, limit_bytes: int, tried: pd.DataFrame) -> str:
    limit = f"the memory limit of {limit_bytes / 2**30:.4g} GiB ({limit_bytes:,} bytes)"
    if fits and fits == most and most < fails:
        return f"more than {most:,} tokens are not tried: the model was not trained for more"
    if not fits:
        return f"{limit} does not even hold the lowest budget that was tried, of {fails:,} tokens"
    how = "ran out of it" if (tried["budget"] == fails).any() else "cannot fit into it"
    near = "" if fails - fits <= TOLERANCE * fails else f"; the search ended after {len(tried)} tries"
    return f"{limit} ends it: {fails:,} tokens {how}{near}"


def most_tokens(model_path: str) -> int | None:
    """The budget in tokens up to which a model is known to read; None = not known, so memory is the only limit."""
    return READER_BUDGETS[1] if paths.is_reader(model_path) else None


def save_budget(tokens: int, model_path: str, device, output_dir: str = "") -> None:
    """Make `tokens` the default budget of this model on this device, for `choose_budget`."""
    path = paths.budgets_path(output_dir)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known.setdefault(device_name(device), {})[paths.shown(model_path)] = tokens
    write_atomic(path, json.dumps(known, indent=1, sort_keys=True))


def choose_budget(tokens: int, model_path: str, device, output_dir: str = "") -> tuple[int, str]:
    """The budget in tokens and where it comes from, in words.

    It is `tokens` unless that is 0; else what `save_budget` last stored for this model and device in this output folder, but
    not more than the embedded reader was trained for; else that of a first run.
    """
    most = most_tokens(model_path)
    if tokens:
        return tokens, "given" if not most or tokens <= most else f"given; the reader was trained for at most {most} tokens"
    path = paths.budgets_path(output_dir)
    known = json.loads(path.read_text()) if path.is_file() else {}
    found = known.get(device_name(device), {}).get(paths.shown(model_path))
    if found and most and found > most:
        return most, f"the most that the reader was trained for; 02_oom_free found {found} ({paths.shown(path)})"
    if found:
        return found, f"found by 02_oom_free ({paths.shown(path)})"
    return READER_BUDGETS[0] if paths.is_reader(model_path) else MODEL_BUDGET, "the default, not yet tuned by 02_oom_free"
