"""How many answers of the embedded reader are lost when keys and values are stored in 8 bits.

    .venv/bin/python benchmarks/eight_bit.py --streams 100 --out benchmarks/results/eight_bit.csv

Both engines process the same streams with a budget of 1,000 tokens and the position mode "remap". Only the stored dtype
differs. Writes a table with 95% intervals.
"""

import argparse
from pathlib import Path

import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import retention, runs, statistics
from kvlib.ops.storage import EIGHT_BIT

BUDGET, LENGTHS, AGES, SEED = 1000, (16, 48), (2, 4, 8), 0


def storing(kv_dtype: torch.dtype | None):
    """A function that makes an engine which stores keys and values in `kv_dtype`; None = the model's own dtype."""
    config = EvictionConfig(BUDGET, position_mode="remap")
    return lambda model, processor: VideoStreamingInference(model, processor, model.device, config, kv_dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args()
    model, processor = runs.load(str(paths.READER))
    engines = {BUDGET: {str(model.dtype): storing(None), str(EIGHT_BIT): storing(EIGHT_BIT)}}
    answers = retention.compare(model, processor, engines, LENGTHS, AGES, options.streams, SEED)
    difference = statistics.paired_difference(answers, "method", str(model.dtype), SEED)
    table = statistics.summarise(answers, "method").join(difference)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out, index_label="stored as")
    print(f"{options.streams} streams of {LENGTHS} chunks, {BUDGET} tokens, seed {SEED}, {model.device}")
    print(table.T.to_string())


if __name__ == "__main__":
    main()
