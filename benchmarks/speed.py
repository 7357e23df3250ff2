"""How fast and in how much memory a stream is processed: this library against a plain transformers loop, in one run.

    .venv/bin/python benchmarks/speed.py --shapes 3b --device cuda --out benchmarks/results/h200_3b.json
    .venv/bin/python benchmarks/speed.py --shapes reader --device cpu --out benchmarks/results/cpu_reader.json

Three methods process the same random chunks:

- `plain`, the loop that one writes by hand: transformers' whole model with `DynamicCache` and sdpa attention;
- `re-rotated`, this library's mode "unrotated": keys are stored without rotation and all of them are rotated in every forward,
  which is how StreamingVLM keeps positions contiguous;
- `kvlib`, this library's mode "remap", also with 8-bit keys and values.

The weights of all shapes but the reader's are random. On CUDA the process is limited to the memory of a 24 GB card. Caches are
filled to a given size with random keys and values. Writes one JSON object, which `draw.py` compares with targets and draws.
"""

import argparse
import json
from pathlib import Path

import measure
import shapes
import torch
from clock import free_memory
from logits import logits_against_fp32
from methods import PlainLoop, Streaming, random_frames

from kvlib import VideoStreamingInference
from kvlib.families import family_of
from kvlib.lab.report import paths
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.report import Report
from kvlib.lab.study import budgets, runs
from kvlib.ops.pixels import grid_of
from kvlib.ops.storage import EIGHT_BIT

SISTERS = ("qwen2-2b", "qwen2-7b", "qwen3-2b", "qwen3-4b", "qwen3-8b")  # shapes of the other families
FITTING = {"qwen2-2b": 130_000, "qwen2-7b": 54_000, "qwen3-2b": 130_000, "qwen3-4b": 54_000, "qwen3-8b": 24_000}
SIZES = {"3b": (5_000, 54_000, 130_000), "7b": (54_000,), "reader": (250, 1_000, 4_000)}  # tokens in the cache
SIZES |= {name: (tokens,) for name, tokens in FITTING.items()}
FRAMES = dict.fromkeys(("3b", "7b", *SISTERS), (4, 1080, 1920)) | {"reader": (2, 112, 224)}  # of a chunk: number, height, width
LONG = dict.fromkeys(SISTERS, 250) | {"3b": 500, "7b": 250, "reader": 5_000}  # chunks of the long stream
SMALL = (252, 448)  # height and width of the small frames
WINDOW_S = 16  # seconds that the small frames' window holds
SEARCHED = {"plain": torch.bfloat16, "kvlib": torch.bfloat16, "kvlib, 8-bit": EIGHT_BIT}  # how keys and values are stored


class Results:
    """The results so far, a dict `found`, written to a file after every part."""

    def __init__(self, out: Path, found: dict):
        self.out, self.found = out, found

    def keep(self, part: str, measured) -> None:
        """Add or replace a part, write the file and print the part."""
        self.found[part] = measured
        write_atomic(self.out, json.dumps(self.found, indent=1))
        print(part, json.dumps(measured), flush=True)


def load(name: str, device: torch.device):
    """The embedded reader, or a model of the given shapes with random weights; and its processor."""
    if name == "reader":
        return runs.load(str(paths.READER), device)
    processor = shapes.processor(name)
    return shapes.model(name, processor.tokenizer, device), processor


def makers(model, processor, device: torch.device, frames, tokens: int) -> dict:
    """By name: a function that makes the method, for a cache of `tokens` tokens."""
    shared = (model, processor, device, tokens, frames)
    return {
        "plain": lambda: PlainLoop(model, processor, device),
        "re-rotated": lambda: Streaming(*shared, "unrotated"),
        "kvlib": lambda: Streaming(*shared, "remap"),
        "kvlib, 8-bit": lambda: Streaming(*shared, "remap", EIGHT_BIT),
    }


def run(name: str, device: torch.device, repeats: int, out: Path) -> None:
    """Measure everything and write it to `out`."""
    model, processor = load(name, device)
    found = Report("speed", {"shapes": name, "repeats": repeats}, 0, device).provenance()
    found |= {"weights": "trained" if name == "reader" else "random", "dtype": str(model.dtype), "runs": []}
    results = Results(out, found)
    results.keep("logits_against_fp32", logits_against_fp32(model, processor, device, SMALL))
    cuda = device.type == "cuda"
    if cuda:
        results.keep("limit_bytes", budgets.cap_memory(0, device))
    results.keep("ceilings", measure.ceilings(device, model.dtype))
    frames = random_frames(FRAMES[name])
    chunk = VideoStreamingInference(model, processor, device).count_tokens(frames)
    results.keep("chunk", {"frames": list(FRAMES[name]), "tokens": chunk})
    for tokens in SIZES[name]:
        for method, make in makers(model, processor, device, frames, tokens).items():
            free_memory()
            row = {"method": method, "tokens": tokens}
            try:
                row |= measure.measured(make(), frames, tokens, repeats, device)
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            results.keep("runs", [*found["runs"], row])
    free_memory()
    results.keep("attention", [measure.attention_alone(model, chunk, past, device) for past in SIZES[name]])
    grid = grid_of(frames, processor.image_processor, family_of(model.config).resize)
    results.keep("flops", {past: measure.flops(model, grid, chunk, past) for past in SIZES[name]})
    small = [frames] if name == "reader" else [random_frames((count, *SMALL)) for count in (2, 8)]
    streams = [measure.long_stream(model, processor, few, WINDOW_S + 1, LONG[name], device) for few in small]
    results.keep("long_streams", streams)
    if cuda and name != "reader":
        largest = {}
        for method, dtype in SEARCHED.items():

            def make_for(tokens: int, method=method):
                return makers(model, processor, device, frames, tokens)[method]()

            free_memory()
            largest[method] = measure.largest(make_for, frames, measure.bound(model, found["limit_bytes"], dtype))
            results.keep("largest", largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SIZES, default="reader")
    parser.add_argument("--device", type=torch.device, default=runs.default_device())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        run(options.shapes, options.device, options.repeats, options.out)


if __name__ == "__main__":
    main()
