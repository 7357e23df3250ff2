"""How long OVO-Bench would take with every video streamed once: the whole path, from the H.264 file to the answers.

    .venv/bin/python benchmarks/public/streamed_once.py --shapes 3b --out results/h100_streamed_once.json

A made video of moving noise is streamed into a model of published shapes with random weights (bf16, on a CUDA device; or
`--shapes reader`), in turn with one question at its end and with many, each inside a chunk. The difference of a pair is the
time of the questions, with the shorter chunks that are undone. From the medians follow the hours for the 46.4 hours of video
and 3,035 questions of OVO-Bench. Answers of random weights have no meaning; they are as long as a letter and its end.

The hours on an RTX 4090 are not measured: they lie between those on the H100 times the ratio of the two cards' memory
bandwidths and times the ratio of their matrix rates, both by the data sheets, if the host is as fast.
"""

import argparse
import json
import statistics
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
MEASURED, PROJECTED = "H100", "RTX 4090"
DATA_SHEETS = {  # bytes/s of memory, and FLOP/s of dense bf16 products that are summed in fp32
    MEASURED: (3.35e12, 989e12),  # SXM5, 80 GB
    PROJECTED: (1.008e12, 165.2e12),
}


def write_noise(path: Path, seconds: int, width: int, height: int) -> None:
    """A video whose coarse noise moves by some pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 64, 3), dtype=np.uint8)
    whole = coarse.repeat(8, 0).repeat(8, 1)[:height]
    shifts = (4 * number % 256 for number in range(seconds * RATE))
    write_video(path, (whole[:, shift : shift + width] for shift in shifts), RATE)


def streamed(model, processor, protocol: Protocol, video: Path, moments: list[float]) -> tuple[float, list[dict]]:
    """Seconds of streaming the video once with a question at each of these moments, and the rows."""
    questions = [Question(str(number), "m", "t", "v", (at,), PROMPT, "A") for number, at in enumerate(moments)]
    began = time.perf_counter()
    rows = answer_video(protocol.engine(model, processor), protocol.source(video), questions, protocol)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, rows


def projected(quiet: list[float], asked: list[float], seconds: float, questions: int, device: str) -> dict:
    """What follows from the seconds of the passes without and with `questions`, which took turns, over a video of `seconds`.

    Raises ValueError when a pass with questions was not slower than the pass before it: then noise is larger than what is
    measured.
    """
    differences = [more - less for less, more in zip(quiet, asked, strict=True)]
    if min(differences) <= 0:
        raise ValueError(
            f"the passes took {quiet} s without and {asked} s with questions, so the time of {questions} questions is below "
            "the noise: give more --questions, or stop what else runs on this machine"
        )
    question = statistics.median(differences) / questions
    hours = HOURS * statistics.median(quiet) / seconds + QUESTIONS * question / 3600
    found = {
        "seconds_per_second_of_video": statistics.median(quiet) / seconds,
        "seconds_per_question": question,
        "projected_hours": hours,
        "passes": {"quiet": quiet, "asked": asked},
    }
    if MEASURED in device:
        ratios = [here / there for here, there in zip(DATA_SHEETS[MEASURED], DATA_SHEETS[PROJECTED], strict=True)]
        found["calculated_hours"] = {PROJECTED: [hours * ratio for ratio in ratios]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=["reader", *shapes.SHAPES], default="3b")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360), help="width and height of the video")
    parser.add_argument("--seconds", type=int, default=240, help="of the video")
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5, help="passes without and passes with questions")
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
        streamed(model, processor, protocol, video, inside)  # compiles kernels, captures graphs
        quiet, asked = [], []
        for _ in range(options.repeats):
            quiet.append(streamed(model, processor, protocol, video, [options.seconds])[0])
            took, rows = streamed(model, processor, protocol, video, inside)
            asked.append(took)
        known = protocol.describe(model, processor, video, "made")
    found = projected(quiet, asked, options.seconds, options.questions, device_name(model.device))
    found |= {
        "tokens_per_second_of_video": rows[-1]["tokens_seen"] / rows[-1]["seen_s"],
        "evictions": rows[-1]["evictions"],
    }
    made = {"device": device_name(model.device), "git": git_state(), "versions": versions()}
    text = json.dumps(vars(options) | {"out": None} | {"protocol": known} | found | made, indent=1)
    print(text)
    if options.out:
        write_atomic(options.out, text)


if __name__ == "__main__":
    main()
