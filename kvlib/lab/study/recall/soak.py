"""A long stream with an archive in a folder and a limit: do memory, the folder, recall and the time of a chunk stay level?

    python -m kvlib.lab.study.recall.soak --chunks 10000 --out soak.csv

Tiny frames of noise and the embedded reader, so that ten thousand chunks take minutes.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil

from kvlib.evictor import EvictionConfig
from kvlib.lab.report import paths
from kvlib.lab.report.files import write_atomic
from kvlib.lab.study import runs
from kvlib.stream import VideoStreamingInference

FRAMES = 2, 56, 84, 3  # of a chunk: frames, height, width, channels
BUDGET = 200  # tokens
KEPT = 500  # chunks that the archive's limit leaves room for
EVERY = 250  # chunks between two rows
ASKS = 5  # questions for a row
QUESTION = "What did the red card say?"


def soak(model, processor, folder: Path, chunks: int, kept: int = KEPT, every: int = EVERY) -> pd.DataFrame:
    """Stream `chunks` chunks with an archive in the empty `folder` that has room for `kept` chunks; a row after `every` chunks.

    A table [chunk, chunk_s (median since the last row), recall_s (median time to first token with recall of 2 chunks),
    recalled, process_bytes (resident), cache_bytes, index_bytes, archived_chunks, archived_bytes, folder_bytes, folder_files,
    failure].
    """
    rng = np.random.default_rng(0)
    probe = VideoStreamingInference(model, processor, model.device, archive="memory")
    first, both = (probe.append_video_chunk(_noise(rng))["archived_bytes"] for _ in range(2))
    config = EvictionConfig(BUDGET)
    engine = VideoStreamingInference(
        model, processor, model.device, config, archive=folder, archive_bytes=kept * (both - first)
    )
    rows, seconds = [], []
    for number in range(1, chunks + 1):
        frames = _noise(rng)
        began = time.perf_counter()
        engine.append_video_chunk(frames)
        seconds.append(time.perf_counter() - began)
        if number % every == 0:
            rows.append(dict(chunk=number, chunk_s=median(seconds)) | _state(engine, folder))
            seconds = []
    return pd.DataFrame(rows)


def _noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, FRAMES, dtype=np.uint8)


def _state(engine: VideoStreamingInference, folder: Path) -> dict:
    asked = [engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=2)[1] for _ in range(ASKS)]
    info, files = engine.get_cache_info(), [path for path in folder.rglob("*") if path.is_file()]
    return dict(
        recall_s=median(metrics["ttft"] for metrics in asked),
        recalled=len(asked[-1]["recalled"]),
        process_bytes=psutil.Process().memory_info().rss,
        cache_bytes=info["cache_bytes"],
        index_bytes=info["archive_index_bytes"],
        archived_chunks=info["archived_chunks"],
        archived_bytes=info["archived_bytes"],
        folder_bytes=sum(path.stat().st_size for path in files),
        folder_files=len(files),
        failure=info["archive_failure"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args()
    model, processor = runs.load(str(paths.READER))
    with TemporaryDirectory() as folder:
        found = soak(model, processor, Path(folder) / "archive", options.chunks)
    write_atomic(options.out, found.to_csv(index=False))
    print(found.iloc[[0, 1, len(found) // 2, -1]].T.to_string())


if __name__ == "__main__":
    main()
