"""How long OVO-Bench would take with every video streamed once: the whole path, from the H.264 file to the answers.

    .venv/bin/python benchmarks/public/streamed_once.py --shapes 3b --out results/h100_streamed_once.json

A made video of moving noise is streamed twice into a model of published shapes with random weights (bf16, on a CUDA device; or
`--shapes reader`): once with a question at its end, once with many, each inside a chunk. The difference of the two is the time
of the questions, with the shorter chunks that are undone. From both follow the hours for the 46.4 hours of video and 3,035
questions of OVO-Bench. Answers of random weights have no meaning; they are as long as a letter and its end.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for shapes.py

import shapes

from kvlib.lab.benchmarks.protocol import Protocol
from kvlib.lab.benchmarks.question import Question
from kvlib.lab.benchmarks.streaming import answer_video
from kvlib.lab.report import paths
from kvlib.lab.report.files import write_atomic
from kvlib.lab.report.provenance import device_name, git_state, versions
from kvlib.lab.study import runs
from kvlib.lab.study.clips import write_video

HOURS, QUESTIONS = 46.4, 3035  # of OVO-Bench, every video once
RATE = 24  # frames per second of the made video
PROMPT = "Question: What is shown? Options: A. this; B. that; C. both; D. neither; Respond only with the letter."
MAX_NEW_TOKENS = 2


def write_noise(path: Path, seconds: int, width: int, height: int) -> None:
    """A video whose coarse noise moves by some pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 64, 3), dtype=np.uint8)
    whole = coarse.repeat(8, 0).repeat(8, 1)[:height]
    shifts = (4 * number % 256 for number in range(seconds * RATE))
    write_video(path, (whole[:, shift : shift + width] for shift in shifts), RATE)


def timed(model, processor, protocol: Protocol, video: Path, moments: list[float]) -> tuple[float, list[dict]]:
    """Seconds of streaming the video once with a question at each of these moments, and the rows."""
    questions = [Question(str(number), "m", "t", "v", (at,), PROMPT, "A") for number, at in enumerate(moments)]
    began = time.perf_counter()
    rows = answer_video(protocol.engine(model, processor), protocol.source(video), questions, protocol)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=["reader", *shapes.SHAPES], default="3b")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360), help="width and height of the video")
    parser.add_argument("--seconds", type=int, default=240, help="of the video")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--budget", type=int, default=16_000, help="tokens")
    parser.add_argument("--chunk-frames", type=int, default=4)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--recall", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.shapes == "reader":
        model, processor = runs.load(paths.READER)
    else:
        processor = shapes.processor(options.shapes)
        model = shapes.model(options.shapes, processor.tokenizer, "cuda")
    settings = dict(
        max_new_tokens=MAX_NEW_TOKENS,
        budget=options.budget,
        chunk_frames=options.chunk_frames,
        fps=options.fps,
        recall=options.recall,
    )
    protocol, step = Protocol(options.shapes, **settings), options.seconds / options.questions
    inside = [round(step * number + step / 2) + 0.6 / options.fps for number in range(options.questions)]
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "noise.mp4"
        write_noise(video, options.seconds, *options.size)
        if problem := protocol.misfit(model.config, processor, video):
            parser.error(problem)
        timed(model, processor, protocol, video, inside[:2])  # compiles kernels, captures graphs
        quiet, _ = timed(model, processor, protocol, video, [options.seconds])
        asked, rows = timed(model, processor, protocol, video, inside)
        known = protocol.describe(model, processor, video, "made")
    question = max(0.0, asked - quiet) / options.questions
    found = {
        "seconds_per_second_of_video": quiet / options.seconds,
        "seconds_per_question": question,
        "tokens_per_second_of_video": rows[-1]["tokens_seen"] / rows[-1]["seen_s"],
        "evictions": rows[-1]["evictions"],
        "projected_hours": HOURS * quiet / options.seconds + QUESTIONS * question / 3600,
    }
    made = {"device": device_name(model.device), "git": git_state(), "versions": versions()}
    text = json.dumps(vars(options) | {"out": None} | {"protocol": known} | found | made, indent=1)
    print(text)
    if options.out:
        write_atomic(options.out, text)


if __name__ == "__main__":
    main()
