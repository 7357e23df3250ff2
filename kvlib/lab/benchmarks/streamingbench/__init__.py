"""StreamingBench (arXiv:2411.03628): multiple choice about the moment, also with sound or earlier answers, and alerts."""
