"""How fast videos are read: this library's reader against decord, in one run on the same frames.

    .venv/bin/python benchmarks/host/video.py
    .venv/bin/python benchmarks/host/video.py --video MY.mp4

Both read every chunk of two frames at 2 frames per second, in turns. decord has its own default number of threads. Prints the
median ratio of the times, decord's over ours: above 1 this library is the faster one.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np

from kvlib.lab.report import paths
from kvlib.video import VideoChunks

FPS, CHUNK = 2.0, 2


def ours(path: Path) -> int:
    """Frames that this library gives."""
    return sum(len(chunk.frames) for chunk in VideoChunks(path, CHUNK, FPS))


def theirs(path: Path) -> int:
    """Frames that decord gives."""
    reader = decord.VideoReader(str(path))
    wanted = np.arange(0, len(reader), max(reader.get_avg_fps() / FPS, 1.0)).astype(int)
    batches = (wanted[first : first + CHUNK] for first in range(0, len(wanted), CHUNK))
    return sum(len(reader.get_batch(batch).asnumpy()) for batch in batches)


def compared(path: Path, repeats: int) -> dict:
    """Seconds of both readers, in turns, and the median of the ratios of neighbours."""
    seconds: dict[Callable, list[float]] = {ours: [], theirs: []}
    counts = {read: read(path) for read in seconds}
    for _ in range(repeats):
        for read, times in seconds.items():
            began = time.perf_counter()
            read(path)
            times.append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    known = {read.__name__: round(statistics.median(times), 3) for read, times in seconds.items()}
    return {"frames": [*counts.values()], "seconds": known, "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2), "highest": round(max(ratios), 2)}  # fmt: skip


def full_hd(path: Path, seconds: int = 20) -> None:
    """A moving picture of 1920x1080 at 30 frames per second, H.264 with B-frames as x264's defaults make them."""
    pattern = np.random.default_rng(0).integers(0, 255, (135, 240, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = 1080, 1920, "yuv420p"
        for number in range(30 * seconds):
            moved = np.roll(pattern, 4 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="another video beside the lyrics clip and a 1080p one")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, PyAV {av.__version__}, decord {decord.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "1080p.mp4"
        full_hd(large)
        for path in (paths.CLIP, large, *([options.video] if options.video else [])):
            print(path.name, compared(path, options.repeats), flush=True)


if __name__ == "__main__":
    main()
