"""Train the embedded reader from scratch: a Qwen2.5-VL of 7.9 M parameters that reads on-screen text in streams.

    .venv/bin/python data/train_reader.py .fonts data/reader --seconds 1750        # one GPU; data/README.md says how it was run

Worker processes draw scenes, encode them as H.264, decode and resize them. The trainer keeps the clips in a ring buffer on the
GPU and composes streams of 1 to 16 chunks from them, with exactly the turns and positions that `kvlib` uses. Several questions
branch off each stream and are answered in parallel: a branch attends to the stream up to a random chunk, and to itself.

Two more linear heads learn from every visual token which characters it shows and where in the text they stand, which the
renderer knows. They are not part of the checkpoint. Without them the model had not begun to read after 2.4 million clips.
The parts are in `data/training/`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.loop import train  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fonts", type=Path, help="the folder that collect_fonts.py wrote")
    parser.add_argument("out", type=Path, help="the folder for the checkpoint")
    parser.add_argument("--seconds", type=float, default=1750)
    parser.add_argument("--clips", type=int, default=1024, help="chunks in a batch")
    parser.add_argument("--workers", type=int, default=14, help="rendering processes")
    parser.add_argument("--capacity", type=int, default=250_000, help="clips kept on the GPU at the default resolution")
    parser.add_argument("--initial", type=Path, help="continue from this checkpoint")
    train(**vars(parser.parse_args()))
