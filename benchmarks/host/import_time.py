"""How long kvlib takes to import, against torch and the transformers classes that it needs.

    .venv/bin/python benchmarks/host/import_time.py

Each import is timed in processes of its own, alternately, and medians are compared: a ratio of 1 means that kvlib adds nothing.
"""

import statistics
import subprocess
import sys

ROUNDS = 5
IMPORTS = {
    "torch and transformers": """
import torch
import transformers.cache_utils
import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
import transformers.models.qwen2_vl.image_processing_pil_qwen2_vl
from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
""",
    "kvlib": "from kvlib import *",
}
TIMED = "import time; began = time.perf_counter()\n{}\nprint(time.perf_counter() - began)"


def seconds(code: str) -> float:
    """The time that `code` takes in a fresh process."""
    return float(subprocess.run([sys.executable, "-c", TIMED.format(code)], capture_output=True, text=True, check=True).stdout)


def medians(rounds: int = ROUNDS) -> dict[str, float]:
    """{name of the import: median seconds}."""
    times = [{name: seconds(code) for name, code in IMPORTS.items()} for _ in range(rounds + 1)][1:]  # the first fills caches
    return {name: statistics.median(row[name] for row in times) for name in IMPORTS}


if __name__ == "__main__":
    found = medians()
    for name, value in found.items():
        print(f"{name}: {value:.2f} s")
    print(f"ratio: {found['kvlib'] / found['torch and transformers']:.2f}")
