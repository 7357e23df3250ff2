"""What the archive and recall cost: time of a chunk, time to first token, the index, bytes of an hour of video.

    .venv/bin/python benchmarks/recall.py --shapes 3b --device cuda --out benchmarks/results/h100_3b_recall.json
    .venv/bin/python benchmarks/recall.py --shapes reader --device cpu --out benchmarks/results/cpu_reader_recall.json

Two engines on one model, with and without an archive in memory, are filled to the same number of tokens and take turns at a few
chunks each. The weights of 3b are random, in the true shapes; on CUDA the process is limited to the memory of a 24 GB card.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import internals
import shapes
import torch
from clock import timed
from methods import random_frames, random_states
from speed import FRAMES, SIZES, SMALL, load

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.archive.chunks import key_blocks
from kvlib.archive.index import KeyIndex
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.provenance import git_state
from kvlib.lab.report.report import Report
from kvlib.lab.study import budgets, runs

QUESTION = "What is the title of this video?"
TURN, ROUNDS = 5, 4  # chunks that one engine processes in a row, and how often it does
RECALLED = (0, 1, 2)  # chunks
INDEXED = 10_000  # chunks in the index
SECONDS = 2.0  # of video in a chunk of four frames


def filled(model, processor, device, frames, tokens: int, archive) -> VideoStreamingInference:
    """An engine that holds about `tokens` tokens and evicts a chunk for every new one, with room for two recalled chunks."""
    probe = VideoStreamingInference(model, processor, device)
    chunk = probe.count_tokens(frames)
    config = EvictionConfig(tokens + 3 * chunk, recall_tokens=2 * chunk)
    engine = VideoStreamingInference(model, processor, device, config, archive=archive)
    engine.append_video_chunk(frames)
    internals.fill_with_chunks(engine, chunk, tokens, lambda: random_states(model, chunk))
    for _ in range(4):  # evicts, compiles, captures
        engine.append_video_chunk(frames)
        engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=1 if archive else 0)
    return engine


def chunk_seconds(engines: dict[str, VideoStreamingInference], frames, device) -> dict[str, list[float]]:
    """Seconds of every chunk, by engine; copies to the host go on while the next chunk is processed."""
    found = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            for _ in range(TURN):
                began = time.perf_counter()
                engine.append_video_chunk(frames)
                if device.type == "cuda":
                    torch.cuda.current_stream(device).synchronize()
                found[name].append(time.perf_counter() - began)
            if engine.cache_manager.archive:
                engine.cache_manager.archive.wait()
    return found


def index_seconds(model, device, vectors: int, repeats: int) -> dict:
    """Scoring `INDEXED` chunks with a mean and a variance of so many blocks each."""
    config, index = model.config.text_config, KeyIndex()
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shape = vectors, 2, config.num_hidden_layers, config.num_key_value_heads, size
    for number in range(INDEXED):
        index.add(number, torch.rand(shape, device=device, dtype=model.dtype), range(number))
    queries = torch.randn(config.num_hidden_layers, heads, size, device=device)
    seconds = timed(lambda: index.shares(queries, range(INDEXED)), device, repeats)
    return {"chunks": INDEXED, "vectors_per_chunk": vectors, "seconds": seconds, "bytes": index.nbytes}


def measured(name: str, device: torch.device, repeats: int) -> dict:
    """All of it, as one JSON object."""
    model, processor = load(name, device)
    found = Report("recall", {"shapes": name, "repeats": repeats}, 0, device).provenance()
    found |= {"git": git_state(), "weights": "trained" if name == "reader" else "random", "dtype": str(model.dtype)}
    if device.type == "cuda":
        found["limit_bytes"] = budgets.cap_memory(0, device)
    frames, tokens = random_frames(FRAMES[name]), SIZES[name][-1]
    engines = {
        title: filled(model, processor, device, frames, tokens, archive)
        for title, archive in (("without", None), ("archive", "memory"))
    }
    engine = engines["archive"]
    seconds = chunk_seconds(engines, frames, device)
    found["chunk"] = {"frames": list(FRAMES[name]), "tokens": engine.count_tokens(frames), "cache_tokens": tokens}
    found["chunk_seconds"] = seconds
    medians = {title: statistics.median(values) for title, values in seconds.items()}
    found["chunk_overhead"] = medians["archive"] / medians["without"] - 1
    found["ttft"] = {}
    for recall in RECALLED:
        asked = [engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=recall)[1] for _ in range(repeats + 3)][3:]
        assert {len(metrics["recalled"]) for metrics in asked} == {recall}
        found["ttft"][recall] = [metrics["ttft"] for metrics in asked]
    info = engine.get_cache_info()
    archived = engine.cache_manager.state.archived[-1]
    vectors = len(key_blocks(archived.spread))
    found["archive"] = {
        "bytes_per_chunk": archived.nbytes,
        "index_share": vectors / archived.span.tokens,  # a vector's mean and variance are as large as a token's key and value
        "cache_bytes": info["cache_bytes"],
    }
    per_token = archived.nbytes // archived.span.tokens
    found["gib_per_hour"] = {
        f"{width}x{height}": engine.count_tokens(random_frames((4, height, width))) * per_token * 3600 / SECONDS / 2**30
        for height, width in (FRAMES[name][1:], SMALL)
    }
    del engine, engines
    found["index"] = index_seconds(model, device, vectors, repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=("reader", *shapes.SHAPES), default="reader")
    parser.add_argument("--device", type=torch.device, default=runs.default_device())
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        found = measured(options.shapes, options.device, options.repeats)
    write_atomic(options.out, json.dumps(found, indent=1))
    shown = {"ttft": {k: round(statistics.median(v), 4) for k, v in found["ttft"].items()}}
    print(json.dumps({k: found[k] for k in ("chunk_overhead", "archive", "gib_per_hour", "index")} | shown, indent=1))


if __name__ == "__main__":
    main()
