"""Run a checkpoint with the full shapes of Qwen2.5-VL and random weights on a CUDA device.

It checks loading, memory and counters at the size of the real model. Answers of random weights mean nothing:

    .venv/bin/python benchmarks/full_shape.py --shapes 3b --budget 50000 --chunks 14

The checkpoint is written to a temporary folder (7.5 GB for 3b, 16.6 GB for 7b) and loaded in the usual way. It processes
frames of 1920x1080, 4 per chunk, with device memory limited to 23.3 GiB. Prints one JSON object. The exit status is 1 when a
check fails.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise

import internals
import shapes
import torch
from transformers import DynamicCache

from kvlib import EvictionConfig, StreamQwenModel, VideoStreamingInference, load_processor
from kvlib.lab.study import budgets
from kvlib.ops.positions import text_positions

BF16 = 2
BF16_ERROR = 0.05  # relative: two orders of summation in bf16 differ by no more over all layers


def write_checkpoint(name: str, path: str) -> None:
    """Write a checkpoint of shapes `name` (weights, tokenizer and image settings) to the folder `path`."""
    processor = shapes.processor()
    shapes.model(name, processor.tokenizer, "cuda").save_pretrained(path)
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)


def stream(model, processor, budget: int, mode: str, chunks: int) -> dict:
    """Process `chunks` random 1080p chunks, ask once, and return counters, times (s) and memory."""
    torch.cuda.reset_peak_memory_stats()
    engine = VideoStreamingInference(model, processor, "cuda", EvictionConfig(budget, position_mode=mode))
    generator, seconds, lengths = torch.Generator().manual_seed(0), [], []
    for _ in range(chunks):
        frames = torch.randint(0, 256, (4, 1080, 1920, 3), generator=generator, dtype=torch.uint8)
        torch.cuda.synchronize()
        began = time.perf_counter()
        lengths.append(engine.append_video_chunk(frames, fps=2.0)["cache_seq_length"])
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    before = engine.cache_manager.fingerprint()
    _, metrics = engine.ask("What is on screen?", max_new_tokens=8, do_sample=False)
    info = engine.get_cache_info()
    return {
        "mode": mode,
        "budget": budget,
        "chunks": chunks,
        "first_chunk_tokens": lengths[0],
        "chunk_tokens": lengths[1] - lengths[0],
        "longest": max(lengths),
        "ask_left_no_trace": engine.cache_manager.fingerprint() == before,
        "median_chunk_seconds": sorted(seconds)[len(seconds) // 2],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        **info["eviction_stats"],
        **metrics,
        "bytes_per_token": info["cache_bytes"] / internals.capacity_of(engine),
    }


@torch.no_grad()
def errors(model) -> dict[str, float]:
    """Relative differences ||ours - theirs|| / ||theirs|| of the vision tower and the language model to transformers' own
    forward on this device, for two temporal grids of 36 x 64 patches, and for 700 tokens after 300 cached ones."""
    grid, generator = (2, 36, 64), torch.Generator("cuda").manual_seed(0)
    visual, language = model.model.visual, model.model.language_model
    patches = torch.randn(grid[0] * grid[1] * grid[2], 1176, device="cuda", generator=generator)
    seen = internals.vision_features(model, patches, grid)
    theirs = visual(patches.to(torch.bfloat16), grid_thw=torch.tensor([grid], device="cuda")).pooler_output
    found = {"vision": ((seen - theirs).float().norm() / theirs.float().norm()).item()}
    embeddings = torch.randn(1, 1000, seen.shape[1], device="cuda", generator=generator).to(torch.bfloat16)
    parts, cache = (0, 300, 1000), DynamicCache()
    mine = internals.hidden_in_parts(language, embeddings, parts)
    for first, last in pairwise(parts):
        theirs = language(
            inputs_embeds=embeddings[:, first:last],
            position_ids=text_positions(last - first, first)[:, None].cuda(),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    return found | {"language": ((mine - theirs).float().norm() / theirs.float().norm()).item()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=shapes.SHAPES, default="3b")
    parser.add_argument("--budget", type=int, default=50_000, help="tokens (default 50000)")
    parser.add_argument("--chunks", type=int, default=14)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as path:
        write_checkpoint(options.shapes, path)
        torch.cuda.empty_cache()
        began = time.perf_counter()
        model = StreamQwenModel.from_pretrained(path, torch_dtype=torch.bfloat16).to("cuda").eval()
        loading = time.perf_counter() - began
        processor = load_processor(path)
    budgets.cap_memory(0, torch.device("cuda"))
    relative = errors(model)
    runs = [stream(model, processor, options.budget, mode, options.chunks) for mode in ("keep", "remap")]
    shape = shapes.SHAPES[options.shapes]
    head = shape["hidden_size"] // shape["num_attention_heads"]
    expected = shape["num_hidden_layers"] * 2 * shape["num_key_value_heads"] * head * BF16
    good = all(
        run["longest"] <= options.budget
        and run["chunk_tokens"] == 2 * 39 * 69 + 7
        and run["total_evictions"] > 0
        and run["ask_left_no_trace"]
        for run in runs
    )
    good = good and runs[0]["bytes_per_token"] == expected and max(relative.values()) < BF16_ERROR
    summary = {
        "shapes": options.shapes,
        "weights": "random",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "loading_seconds": loading,
        "bytes_per_token_expected": expected,
        "relative_errors": relative,
        "passed": good,
        "runs": runs,
    }
    print(json.dumps(summary, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
