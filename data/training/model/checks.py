"""What is checked while training runs: the forward against transformers' own, and answers on held-out text."""

import random

import numpy as np
import torch

from training.clips.rings import Pool
from training.model.trainer import Trainer
from training.settings import BLOCK, DEFAULT
from training.streams.batches import draw_batch
from training.streams.feeding import to_device
from training.streams.packer import Packer

WATCHED = {  # what `monitor` asks: chunks, temporal grids of a chunk, questions of a stream, threshold
    "one chunk": (1, 1, 1, 0.0),
    "32 chunks": (32, 1, 8, 0.0),
    "8 chunks of 4, static dropped": (8, 4, 8, 0.03),
}


@torch.no_grad()
def check_forward(trainer: Trainer, packer: Packer) -> float:
    """Largest absolute difference between the trainer's logits and those of transformers' own forward, in fp32, on a stream of
    3 chunks with 2 branches."""
    grid, per_chunk, device = (5, 10), 2, trainer.device
    generator = np.random.default_rng(0)
    clips = torch.from_numpy(generator.integers(0, 256, (6, 2, 3, 140, 280)).astype(np.uint8)).to(device)
    asked = [(1, "now", "Read the text on screen.", "abc"), (2, "title", "What is the title of this video?", "Hello, you")]
    prefix = packer.prefix(grid, 3, per_chunk, 2)
    batch = packer.batch([dict(prefix=prefix, branches=asked)]) | {"order": torch.arange(6)[None]}
    batch = to_device(batch, device)
    ours, worst = trainer(clips, dict(grid=grid), batch), 0.0
    model, patches = trainer.model.eval(), trainer.patches(clips)
    for number, (chunk, _, question, answer) in enumerate(asked):
        tokens, first = packer.branch(question, answer)
        end = prefix[2][chunk][0]
        ids = torch.tensor([[*prefix[0][:end], *tokens]], device=device)
        grids = torch.tensor([[per_chunk, 10, 20]] * (chunk + 1), device=device)
        theirs = model(
            input_ids=ids,
            mm_token_type_ids=(ids == packer.video).int() * 2,
            pixel_values_videos=patches[: (chunk + 1) * per_chunk].reshape(-1, 1176),
            video_grid_thw=grids,
            second_per_grid_ts=torch.ones(chunk + 1, device=device),
        ).logits[0, end + first - 1 : -1]
        mine = ours[batch["owner"] == number]
        worst = max(worst, (mine - theirs).abs().max().item())
    return worst


def monitor(trainer: Trainer, packer: Packer, pool: Pool, clips: int) -> dict:
    """Share of exact answers by `WATCHED` and kind of question, on text and fonts that training does not use, in its layouts;
    empty while there are no such clips.

    Gradients stay enabled, although unused: without them every block would be compiled a second time.
    """
    ring, rng, result = pool.monitor, random.Random(1), {}
    if ring.size < BLOCK:
        return result
    for name, (chunks, per_chunk, questions, threshold) in WATCHED.items():
        what = dict(grid=DEFAULT, chunks=chunks, per_chunk=per_chunk, count=max(1, clips // (chunks * min(2, per_chunk))))
        what |= dict(questions=questions, threshold=threshold)
        batch = to_device(draw_batch(packer, ring, rng, **what), trainer.device)
        with trainer.half():
            right = trainer(ring.clips[batch["clips"]], what, batch).argmax(-1) == batch["target"]
        wrong = torch.zeros(len(batch["kinds"]), device=trainer.device).index_add_(0, batch["owner"], (~right).float())
        exact, kinds = (wrong == 0).cpu().numpy(), np.array(batch["kinds"])
        result[name] = {str(k): round(float(exact[kinds == k].mean()), 3) for k in np.unique(kinds)}
    return result
