"""Public benchmarks of streaming video, every video streamed once.

A benchmark is a folder here with two modules. `loader.py` reads its files: `load(data, repo)` returns a `Loaded`. `scorer.py`
has its rules: `is_right(row)`; `MEAN_OVER`, "tasks" or "questions", of which a mode's score is the mean; and `TOTALS`, the
modes of which each total is the mean.
"""
