"""The clips that training draws from: rings on the device, filled from the files that the rendering workers write."""

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import torch

from training.settings import BLOCK, DEFAULT, LONGEST, MERGED_SIDE, Settings


class Ring:
    """The newest `capacity` clips of one grid on the device, uint8 [capacity, 2, 3, H, W], with their texts and colours.

    `SHOT` clips in a row, beginning at a multiple of it, are one shot. `glyphs` fp32 [capacity, LONGEST, 3]: for each character
    of the text its centre (x, y) from -1 to 1 and its kind. `capacity` is rounded down to whole blocks.
    """

    def __init__(self, grid: tuple[int, int], capacity: int, device):
        capacity = capacity // BLOCK * BLOCK
        self.clips = torch.zeros(capacity, 2, 3, grid[0] * MERGED_SIDE, grid[1] * MERGED_SIDE, dtype=torch.uint8, device=device)
        self.glyphs = torch.zeros(capacity, LONGEST, 3, device=device)
        self.stream = torch.cuda.Stream() if self.clips.is_cuda else None
        self.texts = [""] * capacity
        self.lengths, self.colors = np.zeros(capacity, int), np.full(capacity, -1)
        self.added = 0

    @property
    def size(self) -> int:
        return min(self.added, len(self.texts))

    def usable(self) -> np.ndarray:
        """Indices of the clips to draw from: all stored ones except those that the next uploads overwrite, in whole shots."""
        filled = np.arange(self.size)
        if self.added < len(self.texts):
            return filled
        return filled[(filled - self._next(BLOCK)) % len(self.texts) >= max(BLOCK, len(self.texts) // 16)]

    def _next(self, count: int) -> int:
        """The index at which the next `count` clips are stored; the ring's size is a multiple of a block's."""
        return self.added % (len(self.texts) // count * count)

    def add(self, clips: np.ndarray, meta: list) -> None:
        """Upload clips on a CUDA stream of their own, while the trainer runs; `usable` leaves out what is being overwritten."""
        at = self._next(len(meta))
        glyphs = np.zeros((len(meta), LONGEST, 3), np.float32)
        for row, (text, _, centres) in zip(glyphs, meta, strict=True):
            if text:
                row[: len(text), :2] = np.nan_to_num(np.array(centres, np.float32) * 2 - 1)
                row[: len(text), 2] = [max(0, ord(c) - 32) for c in text]
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            self.clips[at : at + len(meta)].copy_(torch.from_numpy(clips))
            self.glyphs[at : at + len(meta)].copy_(torch.from_numpy(glyphs))
        if self.stream:
            self.stream.synchronize()
        self.record(meta)

    def record(self, meta: list) -> None:
        """Record the texts and colours of clips that `add` has uploaded."""
        for index, (text, color, _) in enumerate(meta, self._next(len(meta))):
            self.texts[index], self.colors[index], self.lengths[index] = text, color, len(text)
        self.added += len(meta)


def training_rings(settings: Settings, device) -> dict[tuple[int, int], Ring]:
    """One ring per grid, by the shares of `settings`."""
    return {
        grid: Ring(grid, max(2 * BLOCK, round(settings.capacity * share)), device) for grid, share in settings.grids.items()
    }


class Pool:
    """All rings, filled by a thread from the workers' files. The texts of every block for training are put into the queue
    `news`, until `stopped` is set. `monitor` is a ring of the default grid with fonts and texts that are not trained on."""

    def __init__(self, folder: Path, settings: Settings, device, news):
        self.folder, self.news = folder, news
        self.train = training_rings(settings, device)
        self.monitor, self.stopped = Ring(DEFAULT, 4800, device), threading.Event()
        threading.Thread(target=self._fill, daemon=True).start()

    def rendered(self) -> int:
        """Clips for training that were stored so far."""
        return sum(ring.added for ring in self.train.values())

    def _fill(self) -> None:
        while not self.stopped.is_set():
            names = [n for n in os.listdir(self.folder) if n.endswith(".json") and not n.startswith(".")]
            for name in names:
                part, rows, columns, _ = name.split("-")
                path = self.folder / name
                grid, meta = (int(rows), int(columns)), json.loads(path.read_text())
                ring = self.train[grid] if part == "train" else self.monitor
                ring.add(np.load(path.with_suffix(".npy")), meta)
                if part == "train":
                    self.news.put((grid, meta))
                path.with_suffix(".npy").unlink()
                path.unlink()
            time.sleep(0.02)
