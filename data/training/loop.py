"""The training loop: processes and threads that prepare batches, the optimiser's steps, the log and the checkpoints."""

import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from training.feed import Feed
from training.history import History, Progress, heads_path, load_state, save_state, state_path
from training.model.checkpoint import build_model, build_tokenizer, save_checkpoint
from training.model.checks import check_forward, monitor
from training.model.muon import Muon
from training.model.trainer import Trainer
from training.settings import DEFAULT, Settings, font_families
from training.streams.batches import draw_batch
from training.streams.packer import Packer
from training.streams.schedule import RAMP, READS, glyph_weight, learning_rate

FORWARD_TOLERANCE = 2e-3  # of logits, fp32, against transformers' own forward
PEAK = 1.2e-3  # learning rate
ADDRESS = "tcp://127.0.0.1:29511"  # where the ranks of one machine meet


def train(settings: Settings) -> None:
    """Train on all GPUs of this machine, one process each, or on the CPU when there is none. Appends to `log.jsonl`.

    Raises FileExistsError when `out` has a log and `resume` is False, FileNotFoundError when there are no fonts, or when `out`
    has no state to go on from and `resume` is True, and RuntimeError when the forward for training differs from transformers'
    own.
    """
    font_families(settings.fonts)  # raises here when there are none
    settings.out.mkdir(parents=True, exist_ok=True)
    log = settings.out / "log.jsonl"
    if log.exists() and not settings.resume:
        raise FileExistsError(f"{log} is the log of another run: give --resume to go on with it, or another folder")
    if settings.resume and not any(path(settings.out).exists() for path in (state_path, heads_path)):
        raise FileNotFoundError(
            f"there is no {state_path(settings.out)} and no {heads_path(settings.out).name} beside it to go on from: "
            "leave out --resume, and give an empty folder"
        )
    ranks = max(1, torch.cuda.device_count())
    if ranks == 1:
        run(0, 1, settings)
    else:
        torch.multiprocessing.spawn(run, (ranks, settings), ranks)


def run(rank: int, ranks: int, settings: Settings) -> None:
    """One GPU's part of `train`. The ranks draw different clips and average their gradients."""
    started = time.time()
    sys.setswitchinterval(5e-4)  # the trainer's thread shares the interpreter with two that prepare data
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if ranks > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", init_method=ADDRESS, rank=rank, world_size=ranks)
    history = History(settings.out, writes=rank == 0)
    trainer, packer, difference = make_trainer(settings.size, device)
    optimizers = make_optimizers(trainer)
    progress = load_state(settings.out, trainer, optimizers) if settings.resume else Progress()
    history.say(
        size=settings.size,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        forward_difference=difference,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        gpus=ranks if device.type == "cuda" else 0,
        seconds=settings.seconds,
        clips=settings.clips,
        families=len(font_families(settings.fonts)["train"]),
        torch=torch.__version__,
    )
    if device.type == "cuda":
        trainer.compile()
        torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if device.type == "cuda" else None) as blocks:
        feed = Feed(rank, ranks, settings, history.runs, Path(blocks), device)
        feed.reads.value = progress.reads
        try:
            feed.wait_for(min(settings.first, settings.capacity // 3))
            if device.type == "cuda":
                for chunks in (1, 4):  # compile before the clock starts
                    warm_up(trainer, packer, feed, chunks, settings.clips)
                    history.say(warm=round(time.time() - started, 1), rendered=feed.pool.rendered())
            steps(trainer, packer, feed, optimizers, settings, history, progress)
        finally:
            feed.stop()
    if ranks > 1:
        dist.destroy_process_group()


def steps(
    trainer: Trainer, packer: Packer, feed: Feed, optimizers: list, settings: Settings, history: History, progress: Progress
) -> None:
    """Train until the time is over, and save a checkpoint every `settings.every` seconds."""
    began, before = time.time(), replace(progress)
    saved = told_at = passed = 0.0
    share, told = progress.seconds / settings.seconds, None

    def counted() -> dict:
        return dict(s=round(progress.seconds), step=progress.step, clips=progress.clips, answers=progress.answers)

    def save(clips: int, **values) -> None:
        found = monitor(trainer, packer, feed.pool, clips) if history.file else {}
        reads = share > RAMP and found.get("one chunk", {}).get("now", 0) >= READS
        feed.reads.value = feed.reads.value or reads
        progress.reads = bool(feed.reads.value)
        if history.file:
            save_checkpoint(trainer.model, packer.tokenizer, settings.out)
            save_state(settings.out, trainer, optimizers, progress)
        history.say(**counted(), rendered=feed.pool.rendered(), reads=progress.reads, monitor=found, saved=True, **values)

    trainer.model.train()
    while share < 1:
        feed.share.value = share
        what, batch = feed.batch()
        passed = time.time() - began if settings.step_s is None else (progress.step - before.step) * settings.step_s
        now = (before.seconds + passed) / settings.seconds
        ring = feed.pool.train[what["grid"]]
        rate = learning_rate(progress.step, settings.warm_up, share, PEAK)
        losses, latest = update(trainer, optimizers, ring, what, batch, (now, feed.reads.value), rate, share)
        if told is not None:  # of the step before, so that the device never waits for the host
            share, reads = told.tolist()
            progress.seconds, feed.reads.value = share * settings.seconds, reads > 0
        told = latest
        progress.step += 1
        progress.clips += len(batch["clips"])
        progress.answers += len(batch["kinds"])
        if passed - told_at > settings.every / 10:
            told_at = passed
            answer, glyphs = (round(loss.item(), 4) for loss in losses)
            planned = {name: what[name] for name in ("chunks", "per_chunk")}
            history.say(**counted(), answer=answer, glyphs=glyphs, **planned, waiting=len(feed.waiting),
                        rendered=feed.pool.rendered())  # fmt: skip
        if passed - saved > settings.every:
            saved = passed
            save(min(1024, settings.clips))
    peak = torch.cuda.max_memory_allocated() / 2**30 if trainer.device.type == "cuda" else 0
    save(min(2048, 2 * settings.clips), peak_gib=round(peak, 1), done=True)


def make_trainer(size: str, device: torch.device) -> tuple[Trainer, Packer, float]:
    """The trainer of a model with random weights, the packer, and the difference of `check_forward`.

    Raises RuntimeError when that difference is above `FORWARD_TOLERANCE`.
    """
    tokenizer = build_tokenizer()
    packer, model = Packer(tokenizer), build_model(tokenizer, size)
    trainer = Trainer(model, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    difference = check_forward(trainer, packer)
    if difference >= FORWARD_TOLERANCE:
        raise RuntimeError(
            f"the forward for training differs from transformers' by {difference} in a logit: compare training/model/blocks.py "
            "with the model code of the installed transformers"
        )
    return trainer, packer, difference


def make_optimizers(trainer: Trainer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks and layers, AdamW for everything else. Muon's updates are scaled to the size of
    AdamW's, so one learning rate serves both."""
    inner = [*trainer.model.model.visual.blocks.parameters(), *trainer.model.model.language_model.layers.parameters()]
    matrices = [parameter for parameter in inner if parameter.ndim == 2]
    chosen = set(map(id, matrices))
    others = [parameter for parameter in trainer.parameters() if id(parameter) not in chosen]
    fused = trainer.device.type == "cuda"
    return [
        Muon(matrices, PEAK, weight_decay=0.02),
        torch.optim.AdamW(others, PEAK, betas=(0.9, 0.98), weight_decay=0.02, fused=fused),
    ]


def losses_of(trainer: Trainer, ring, what: dict, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the answers (0 when there are none) and `Trainer.glyph_loss`, of a batch of clips from `ring`."""
    clips = batch["clips"]
    with trainer.half():
        patches, features, glyph_loss = trainer.learn_glyphs(
            ring.clips[clips], batch["shots"], what["grid"], ring.glyphs[clips]
        )
        if not what["questions"]:
            return torch.zeros((), device=trainer.device), glyph_loss
        logits = trainer.answer(features, batch, trainer.left_out(patches, what, batch))
    return F.cross_entropy(logits.float(), batch["target"]), glyph_loss


def update(trainer: Trainer, optimizers: list, ring, what: dict, batch: dict, told: tuple, rate: float, share: float):
    """One step of the optimisers at learning rate `rate`; returns both losses of this rank, and `told`, some numbers, averaged
    over all ranks, as a tensor on the device."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate
    losses = losses_of(trainer, ring, what, batch)
    trainer.zero_grad(set_to_none=True)
    (losses[0] + glyph_weight(share) * losses[1]).backward()
    told = average(list(trainer.parameters()), told, trainer.device)
    nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return losses, told


def average(parameters: list[nn.Parameter], told: tuple, device) -> torch.Tensor:
    """Average the gradients of `parameters` and the numbers `told` over all ranks; returns the numbers, fp32."""
    told = torch.tensor(told, dtype=torch.float32, device=device)
    if not dist.is_initialized():
        return told
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]  # the ranks' batches may differ in kind
    flat = torch.cat([told, *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    told, *parts = flat.split([len(told), *(p.numel() for p in parameters)])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return told


def warm_up(trainer: Trainer, packer: Packer, feed: Feed, chunks: int, clips: int) -> None:
    """One forward and backward of streams of `chunks` chunks, which compiles their kernels."""
    what = dict(grid=DEFAULT, chunks=chunks, per_chunk=chunks, count=clips // chunks**2, questions=2 if chunks > 1 else 1)
    what |= dict(threshold=0.03 if chunks > 1 else 0.0)
    ring = feed.pool.train[DEFAULT]
    batch = feed.upload(draw_batch(packer, ring, random.Random(0), **what))
    sum(losses_of(trainer, ring, what, batch)).backward()
