"""Make small data sets in the exact form of the public benchmarks, to try `kvlib benchmark` on:

    .venv/bin/python data/make_benchmarks.py results/small_sets
    .venv/bin/kvlib benchmark ovo --data results/small_sets/reading/data --repo results/small_sets/reading --free-answers

`ovo` and `streamingbench` have a dozen synthetic videos each, all tasks, and every quirk of the real files. `reading` has the form
of OVO-Bench and questions that the embedded reader can answer. Prompts are our own, in the variables of the real ones.
"""

import argparse
from pathlib import Path

from kvlib.lab.benchmarks.small_sets import write_ovo, write_reading, write_streamingbench

STREAMS, CHUNKS, AGES = 12, 32, (3, 12, 20, 28)  # videos of the reading set, their seconds, and the ages of the cards


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_ovo(options.out / "ovo", options.seed)
    write_streamingbench(options.out / "streamingbench", options.seed)
    write_reading(options.out / "reading", STREAMS, CHUNKS, AGES, options.seed)


if __name__ == "__main__":
    main()
