"""The training loop: processes and threads that prepare batches, the optimiser's steps, the log and the checkpoints."""

import json
import multiprocessing
import os
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from training.batches import Uploader, compose
from training.checkpoint import build_model, build_tokenizer, continue_from, save_checkpoint
from training.checks import check_forward, monitor
from training.rendering import render_worker
from training.rings import Pool
from training.schedule import RAMP, READS, glyph_weight, learning_rate
from training.sizes import GRIDS
from training.streams import Packer, draw_batch
from training.trainer import Trainer

FORWARD_TOLERANCE = 2e-3  # of logits, fp32, against transformers' own forward
QUEUED = 3  # batches that wait on the device
MONITOR_S, SAVE_S = 30, 180  # seconds between two monitorings, two checkpoints


class Log:
    """Appends JSON lines to a file and prints them."""

    def __init__(self, path: Path):
        self.file = open(path, "a", buffering=1)

    def __call__(self, **values) -> None:
        self.file.write(json.dumps(values) + "\n")
        print(json.dumps(values), flush=True)


def train(fonts: Path, out: Path, seconds: float, clips: int, workers: int, capacity: int, initial: Path | None) -> None:
    """Train for `seconds`, logging a JSON line every 100 steps to `out/log.jsonl`, and save a checkpoint every 3 minutes.

    Raises RuntimeError when the forward for training differs from transformers' own.
    """
    started = time.time()
    sys.setswitchinterval(5e-4)  # the trainer's thread shares the interpreter with two that prepare data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    families = training_faces(fonts)
    blocks = Path("/dev/shm") / f"reader-{os.getpid()}"
    blocks.mkdir()
    context = multiprocessing.get_context("spawn")
    base = random.SystemRandom().randrange(10**6) if initial else 0  # a continuation draws new clips
    for number in range(workers):
        context.Process(target=render_worker, args=(base + number, blocks, families), daemon=True).start()
    trainer, packer, difference = make_trainer(initial, device)
    model, tokenizer = trainer.model, packer.tokenizer
    out.mkdir(parents=True, exist_ok=True)
    say = Log(out / "log.jsonl")
    say(
        parameters=sum(p.numel() for p in model.parameters()),
        forward_difference=difference,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        seconds=seconds,
        clips=clips,
        families=len(families),
        torch=torch.__version__,
    )
    if device.type == "cuda":
        trainer.compile()
        torch.set_float32_matmul_precision("high")
    news, batches = context.Queue(), context.Queue(maxsize=4)
    began, reads = context.Value("d", 0.0), context.Value("b", bool(initial))
    shared = (capacity, clips, seconds, began, reads, news, batches)
    context.Process(target=compose, args=shared, daemon=True).start()
    pool, upload = Pool(blocks, capacity, device, news), Uploader(device)
    optimizer = torch.optim.AdamW(trainer.parameters(), 1e-3, betas=(0.9, 0.98), weight_decay=0.02, fused=device.type == "cuda")
    while pool.train[GRIDS[0]].size < min(3000, capacity // 2):
        time.sleep(0.2)
    if device.type == "cuda":
        for chunks in (1, 4):  # compile before the clock starts
            warm_up(trainer, packer, pool, upload, chunks, clips)
            say(warm=round(time.time() - started, 1), rendered=pool.train[GRIDS[0]].added)
    began.value = time.time()
    step, chunks_seen, answers, saved, watched, queue = 0, 0, 0, time.time(), time.time(), []
    peak = 1e-3 if initial else 1.2e-3
    threading.Thread(target=fill_queue, args=(queue, batches, upload), daemon=True).start()
    model.train()
    while (share := (time.time() - began.value) / seconds) < 1:
        while not queue:
            time.sleep(0.001)
        what, batch = queue.pop(0)
        ring = pool.train[what["grid"]]
        answer_loss, glyph_loss = update(trainer, optimizer, ring, what, batch, learning_rate(step, share, peak), share)
        step, chunks_seen, answers = step + 1, chunks_seen + len(batch["picks"]), answers + len(batch["kinds"])
        if step % 100 == 0 or step == 1:
            seconds_so_far = round(time.time() - began.value)
            progress = dict(s=seconds_so_far, step=step, chunks=chunks_seen, answers=answers, rendered=pool.rendered())
            parts = dict(loss=round(answer_loss.item(), 4), glyphs=round(glyph_loss.item(), 3))
            say(**progress, stream=what["chunks"], **parts, queue=len(queue))
        if time.time() - watched > MONITOR_S:
            watched, seen = time.time(), monitor(trainer, packer, pool, min(1024, clips))
            reads.value = reads.value or (share > RAMP and seen.get(1, {}).get("now", 0) >= READS)
            say(s=round(time.time() - began.value), held_out_text=seen)
        if time.time() - saved > SAVE_S:
            saved = time.time()
            save_checkpoint(model, tokenizer, out)
    final = monitor(trainer, packer, pool, min(2048, 2 * clips))
    progress = dict(step=step, chunks=chunks_seen, answers=answers, rendered=pool.rendered())
    say(s=round(time.time() - began.value), **progress, final=final)
    if device.type == "cuda":
        say(peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 1))
    save_checkpoint(model, tokenizer, out)
    say(done=True)


def training_faces(fonts: Path) -> list[list[str]]:
    """The font files of every training family in the folder that `collect_fonts.py` wrote."""
    families = json.loads((fonts / "fonts.json").read_text())["train"]
    return [[str(fonts / face) for face in faces] for faces in families.values()]


def make_trainer(initial: Path | None, device: torch.device) -> tuple[Trainer, Packer, float]:
    """The trainer, from random weights or from the checkpoint `initial`, the packer, and the difference of `check_forward`.

    Raises RuntimeError when that difference is above `FORWARD_TOLERANCE`.
    """
    tokenizer = build_tokenizer()
    packer, model = Packer(tokenizer), build_model(tokenizer)
    if initial:
        continue_from(model, initial)
    trainer = Trainer(model, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    difference = check_forward(trainer, packer)
    if difference >= FORWARD_TOLERANCE:
        raise RuntimeError(
            f"the forward for training differs from transformers' by {difference} in a logit: compare training/blocks.py "
            "with the model code of the installed transformers"
        )
    return trainer, packer, difference


def losses(trainer: Trainer, ring, what: dict, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the answers (0 when there are none) and `Trainer.glyph_loss`, of a batch of clips from `ring`."""
    with torch.autocast(trainer.device.type, torch.bfloat16):
        features, glyph_loss = trainer.learn_glyphs(ring.clips[batch["picks"]], what["grid"], ring.glyphs[batch["picks"]])
        if not what["questions"]:
            return torch.zeros((), device=trainer.device), glyph_loss
        logits = trainer.answer(features, batch)
    return F.cross_entropy(logits.float(), batch["target"]), glyph_loss


def update(trainer: Trainer, optimizer, ring, what: dict, batch: dict, rate: float, share: float):
    """One step of the optimiser at learning rate `rate`; returns both `losses`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    answer_loss, glyph_loss = losses(trainer, ring, what, batch)
    optimizer.zero_grad(set_to_none=True)
    (answer_loss + glyph_weight(share) * glyph_loss).backward()
    nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
    optimizer.step()
    return answer_loss, glyph_loss


def warm_up(trainer: Trainer, packer: Packer, pool: Pool, upload: Uploader, chunks: int, clips: int) -> None:
    """One forward and backward of streams of `chunks` chunks, which compiles their kernels."""
    shape = dict(grid=GRIDS[0], chunks=chunks, per_chunk=1, count=clips // chunks, questions=2 if chunks > 1 else 1)
    batch, picks = draw_batch(packer, pool.train[GRIDS[0]], rng=random.Random(0), **shape)
    sum(losses(trainer, pool.train[GRIDS[0]], shape, upload(batch | {"picks": picks}))).backward()


def fill_queue(queue: list, batches, upload: Uploader) -> None:
    """Upload batches from the queue of the composing process into the list `queue`, until the process ends."""
    while True:
        what, arrays = batches.get()
        batch = upload({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()})
        while len(queue) > QUEUED:
            time.sleep(0.002)
        queue.append((what, batch))
