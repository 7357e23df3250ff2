"""What is saved when the tokens of merged patches that stand still are dropped.

    .venv/bin/python benchmarks/drop_static.py --out benchmarks/results/cpu_drop_static.json
    .venv/bin/python benchmarks/drop_static.py --video MY.mp4 --out my_drop_static.json
    .venv/bin/python benchmarks/drop_static.py --made --shapes 3b --device cuda --out benchmarks/results/h100_drop_static.json

With a video, one engine for each threshold processes every chunk, in turns; the video is read before, so its decoding is not
timed. With --made the frames are random noise below a band that stands still. The height of the band differs from chunk to
chunk, by up to a tenth of the frame, so that hardly two chunks have the same number of tokens. For each share that stands
still, one engine keeps all tokens and one drops them, in turns, in a cache that was filled before. The weights of 3b are
random, in the true shapes; on CUDA the process is limited to the memory of a 24 GB card. Budgets are those of `speed.py`.
"""

import argparse
import json
import random
import statistics
from pathlib import Path

import internals
import pandas as pd
import torch
from clock import Clock, free_memory
from methods import random_frames, random_states
from speed import FRAMES, SIZES, SMALL, load

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.report import Report
from kvlib.lab.study import budgets, runs
from kvlib.lab.video.calibration import bytes_per_token
from kvlib.video import VideoChunks

THRESHOLDS = (0.0, 0.01, 0.02, 0.03, 0.06)  # 0 first: the others are compared with it
STATIC, THRESHOLD = (0.4, 0.8), 0.03  # shares of the made frames that stand still, and the threshold for them
WARM_UP, FPS = 4, 2.0  # chunks of made frames that are not timed; frames per second


def summary(seconds: list[float], infos: list[dict], video_s: float, frames: int, token_bytes: int) -> dict:
    """One row: of chunks that took so many `seconds` each, and the cache's info before the first and after every one of them;
    together they are `video_s` seconds of video and `frames` frames."""
    seen, dropped = (infos[-1][key] - infos[0][key] for key in ("tokens_seen", "tokens_dropped"))
    return {
        "chunks": len(seconds),
        "dropped_share": dropped / seen,
        "stored_tokens_per_s_of_video": (seen - dropped) / video_s,
        "mib_per_minute_of_video": (seen - dropped) / video_s * 60 * token_bytes / 2**20,
        "chunk_seconds": statistics.median(seconds),
        "mean_chunk_seconds": statistics.mean(seconds),
        "seconds_per_s_of_video": sum(seconds) / video_s,
        "frames_per_s": frames / sum(seconds),
    }


def against(row: dict, whole: dict) -> dict:
    """The share of time that `row` saves against `whole`, which drops nothing, and that over the share of tokens it drops."""
    saved = 1 - row["mean_chunk_seconds"] / whole["mean_chunk_seconds"]
    return row | {"saved_time_share": saved, "saved_time_over_saved_tokens": saved / row["dropped_share"]}


def process(engines: dict[float, VideoStreamingInference], chunks: list[torch.Tensor], device: torch.device) -> list[dict]:
    """Append all chunks to every engine, chunk by chunk in turns: a row for each engine's `drop_static`."""
    clock, infos = Clock(device), {drop: [engine.get_cache_info()] for drop, engine in engines.items()}
    for frames in chunks:
        for drop, engine in engines.items():
            with clock.stage(drop):
                infos[drop].append(engine.append_video_chunk(frames, FPS))
    seconds, frames = clock.seconds(), sum(map(len, chunks))
    rows = {}
    for drop, engine in engines.items():
        token_bytes = bytes_per_token(engine.model.config, engine.model.dtype.itemsize)
        rows[drop] = {"drop_static": drop} | summary(seconds[drop], infos[drop], frames / FPS, frames, token_bytes)
    return [against(row, rows[0.0]) if row["dropped_share"] else row for row in rows.values()]


def on_video(model, processor, device, path: Path, chunk_frames: int, budget: int) -> list[dict]:
    """A row for every one of `THRESHOLDS`."""
    chunks = [torch.from_numpy(chunk.frames) for chunk in VideoChunks(path, chunk_frames, FPS)]
    engines = {
        drop: VideoStreamingInference(model, processor, device, EvictionConfig(budget), drop_static=drop) for drop in THRESHOLDS
    }
    return process(engines, chunks, device)


def on_made_frames(model, processor, device, size: tuple[int, int, int], static: float, tokens: int, chunks: int) -> list[dict]:
    """A row for keeping all and one for dropping, of frames of `size` (number, height, width) of which the share `static`
    stands still; the cache holds about so many `tokens`."""
    rng, noise = random.Random(0), random_frames((1 + size[0] // 2, *size[1:]))
    made = [banded(noise, static + rng.uniform(-0.1, 0.1)) for _ in range(WARM_UP + chunks)]
    engines = {drop: filled(model, processor, device, made[0], tokens, drop) for drop in (0.0, THRESHOLD)}
    process(engines, made[:WARM_UP], device)
    return [{"frames": list(size), "static": static} | row for row in process(engines, made[WARM_UP:], device)]


def banded(noise: torch.Tensor, static: float) -> torch.Tensor:
    """Frames uint8 [2 * grids, H, W, 3] of `noise` [1 + grids, H, W, 3]: two equal ones for each grid, whose upper `static`
    share of rows is that of the first noise."""
    frames, rows = noise[1:].repeat_interleave(2, 0), round(static * noise.shape[1])
    frames[:, :rows] = noise[0, :rows]
    return frames


def filled(model, processor, device, frames, tokens: int, drop_static: float) -> VideoStreamingInference:
    """An engine that holds about `tokens` tokens and evicts from now on."""
    chunk = VideoStreamingInference(model, processor, device).count_tokens(frames)
    config = EvictionConfig(tokens + chunk)
    engine = VideoStreamingInference(model, processor, device, config, drop_static=drop_static)
    engine.append_video_chunk(frames)
    internals.fill_with_chunks(engine, chunk, tokens, lambda: random_states(model, chunk))
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, default=paths.CLIP)
    parser.add_argument("--made", action="store_true", help="random frames with a band that stands still, instead of a video")
    parser.add_argument("--chunk-frames", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=20, help="chunks of made frames that are timed")
    parser.add_argument("--shapes", choices=FRAMES, default="reader")
    parser.add_argument("--device", type=torch.device, default=runs.default_device())
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model, processor = load(options.shapes, options.device)
    given = {
        "shapes": options.shapes,
        "chunk_frames": options.chunk_frames,
        "video": None if options.made else options.video.name,
    }
    found = Report("drop_static", given, 0, options.device).provenance()
    found |= {"weights": "trained" if options.shapes == "reader" else "random", "dtype": str(model.dtype), "rows": []}
    if options.device.type == "cuda":
        found["limit_bytes"] = budgets.cap_memory(0, options.device)
    place, tokens = (model, processor, options.device), SIZES[options.shapes][-1]
    with torch.no_grad():
        if options.made:
            for height, width in dict.fromkeys((FRAMES[options.shapes][1:], SMALL)):
                for static in STATIC:
                    size = options.chunk_frames, height, width
                    found["rows"] += on_made_frames(*place, size, static, tokens, options.chunks)
                    free_memory()
        else:
            found["rows"] += on_video(*place, options.video, options.chunk_frames, tokens)
    write_atomic(options.out, json.dumps(found, indent=1))
    print(pd.DataFrame(found["rows"]).to_string(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
