"""The process that composes batches, and their way to the device."""

import queue
import random
import threading
import time

import numpy as np
import torch

from training.clips.rings import training_rings
from training.model.checkpoint import build_tokenizer
from training.settings import BLOCK, DEFAULT, Settings
from training.streams.batches import draw_batch
from training.streams.packer import Packer
from training.streams.schedule import plan

QUEUED = 3  # batches that wait on the device


def to_device(batch: dict, device) -> dict:
    """The batch with its tensors on `device`."""
    return {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}


class Uploader:
    """Copies batches to the device from pinned memory on a CUDA stream of its own, so that the trainer does not wait for
    them."""

    def __init__(self, device):
        self.device = device
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None

    def __call__(self, batch: dict) -> dict:
        if not self.stream:
            return to_device(batch, self.device)
        with torch.cuda.stream(self.stream):
            moved = {
                k: v.pin_memory().to(self.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()
            }
        self.stream.synchronize()
        for tensor in filter(torch.is_tensor, moved.values()):
            tensor.record_stream(torch.cuda.default_stream())
        return moved


def compose(seed: int, settings: Settings, share, reads, news, batches) -> None:
    """Put batches (plan, arrays) into the queue `batches`, as soon as `share` is not negative; runs as a process of its own.

    The queue `news` brings the texts of the clips on the device. In the trainer's process this loop would hold the interpreter
    lock that the thread which launches kernels needs. The plans are the same on every rank, the clips are not.
    """
    torch.set_num_threads(1)
    packer, rings = Packer(build_tokenizer()), training_rings(settings, "meta")
    plans, rng = random.Random(0), random.Random(seed)
    while True:
        while not news.empty():
            grid, meta = news.get()
            rings[grid].record(meta)
        if share.value < 0:
            time.sleep(0.05)
            continue
        what = plan(plans, share.value, settings.clips, bool(reads.value), settings.grids)
        if rings[what["grid"]].size < 2 * BLOCK:
            what["grid"] = DEFAULT
        batch = draw_batch(packer, rings[what["grid"]], rng, **what)
        batches.put((what, {name: value.numpy() if torch.is_tensor(value) else value for name, value in batch.items()}))


def fill_queue(waiting: list, batches, upload: Uploader, stopped: threading.Event) -> None:
    """Upload batches from the queue of the composing process into the list `waiting`, until `stopped` is set."""
    while not stopped.is_set():
        try:
            what, arrays = batches.get(timeout=0.2)
        except queue.Empty:
            continue
        batch = upload({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()})
        while len(waiting) > QUEUED and not stopped.is_set():
            time.sleep(0.002)
        waiting.append((what, batch))
