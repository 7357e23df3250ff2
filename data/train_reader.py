"""Train the embedded reader from scratch: a Qwen2.5-VL of 11 M parameters that reads on-screen text in streams.

    .venv/bin/python data/train_reader.py .fonts data/reader --seconds 1500        # all GPUs of this machine
    .venv/bin/python data/train_reader.py .fonts data/reader --seconds 1500 --resume        # goes on after an interruption
    .venv/bin/python data/train_reader.py --smoke /tmp/smoke        # every part once on a CPU, about a minute, no fonts needed

Worker processes draw scenes, encode them as H.264, decode and resize them. The trainer keeps the clips in ring buffers on the
GPU and composes streams of up to 44 temporal grids from them, with exactly the turns and positions that `kvlib` uses. Several
questions branch off each stream and are answered in parallel: a branch attends to the stream up to a random chunk, and to itself.

Two more linear heads learn from every visual token which characters it shows and where in the text they stand, which the
renderer knows. They are not part of the checkpoint. Without them the model had not begun to read after 2.4 million clips.
`data/README.md` explains it all, the parts are in `data/training/`.
"""

import argparse
import os
import sys
from pathlib import Path

# The batches have many sizes. With this the allocator does not keep memory in blocks that fit only some of them.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.loop import Settings, train  # noqa: E402
from training.model.checkpoint import SIZES  # noqa: E402
from training.smoke import smoke  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fonts", nargs="?", type=Path, help="the folder that collect_fonts.py wrote; not with --smoke")
    parser.add_argument("out", type=Path, help="the folder for the checkpoint and log.jsonl")
    parser.add_argument("--seconds", type=float, default=1500, help="of training in all, those before a --resume too")
    parser.add_argument("--size", choices=SIZES, default="11M")
    parser.add_argument("--clips", type=int, default=1024, help="different clips in a batch, of each GPU")
    parser.add_argument("--workers", type=int, default=12, help="rendering processes, of each GPU")
    parser.add_argument("--capacity", type=int, default=100_000, help="clips kept on each GPU")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in `out`")
    parser.add_argument(
        "--smoke", action="store_true", help="a small model for a minute on the CPU, to see that all parts work"
    )
    given = vars(parser.parse_args())
    if given.pop("smoke"):
        smoke(given["out"])
    elif given["fonts"] is None:
        parser.error("fonts is missing: give the folder that collect_fonts.py wrote, or --smoke")
    else:
        train(Settings(**given))
