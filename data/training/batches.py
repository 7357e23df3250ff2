"""The process that composes batches, and their way to the device."""

import random
import time

import torch

from training.checkpoint import build_tokenizer
from training.rings import training_rings
from training.schedule import plan
from training.sizes import GRIDS
from training.streams import Packer, draw_batch


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


def compose(capacity: int, clips: int, seconds: float, began, reads, news, batches) -> None:
    """Put batches (plan, arrays) into the queue `batches`, as soon as `began` is set; runs as a process of its own.

    The queue `news` brings the texts of the clips on the device. In the trainer's process this loop would hold the interpreter
    lock that the thread which launches kernels needs.
    """
    torch.set_num_threads(1)
    packer, rings, rng = Packer(build_tokenizer()), training_rings(capacity, "meta"), random.Random(0)
    while True:
        while not news.empty():
            grid, meta = news.get()
            rings[grid].record(meta)
        if not began.value:
            time.sleep(0.05)
            continue
        what = plan(rng, (time.time() - began.value) / seconds, clips, bool(reads.value))
        if rings[what["grid"]].size < 96:
            what["grid"] = GRIDS[0]
        batch, picks = draw_batch(packer, rings[what["grid"]], rng=rng, **what)
        arrays = {name: value.numpy() if torch.is_tensor(value) else value for name, value in batch.items()}
        batches.put((what, arrays | {"picks": picks.numpy()}))
