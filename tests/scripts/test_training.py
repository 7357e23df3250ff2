"""The parts of the reader's training: the forward, the batches, the clips, the schedule and the log."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist

from kvlib import VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.model import Processor
from kvlib.ops.pixels import changed_patches, patchify
from kvlib.ops.positions import chunk_positions

sys.path.insert(0, str(paths.ROOT / "data"))

from training import loop  # noqa: E402
from training.history import History  # noqa: E402
from training.model import checkpoint, checks  # noqa: E402
from training.model.blocks import branch_mask  # noqa: E402
from training.model.muon import Muon  # noqa: E402
from training.model.trainer import Trainer  # noqa: E402
from training.settings import GRIDS, IN_VIEW, font_families  # noqa: E402
from training.streams import batches, schedule  # noqa: E402
from training.streams import packer as packing

GRID = (4, 8)  # of the clips of `block`


@pytest.fixture(scope="module")
def packer():
    return packing.Packer(checkpoint.build_tokenizer())


@pytest.fixture(scope="module")
def trainer(packer):
    return Trainer(checkpoint.build_model(packer.tokenizer, "tiny"), torch.device("cpu"))


@torch.no_grad()
@pytest.mark.parametrize("size", checkpoint.SIZES)
def test_the_forward_for_training_is_that_of_transformers(packer, size):
    trainer = Trainer(checkpoint.build_model(packer.tokenizer, size), torch.device("cpu"))
    assert checks.check_forward(trainer, packer) < 1e-4


def test_a_wrong_forward_stops_the_training(monkeypatch):
    monkeypatch.setattr(loop, "check_forward", lambda trainer, packer: 0.01)
    with pytest.raises(RuntimeError, match="differs from transformers' by 0.01"):
        loop.make_trainer("tiny", torch.device("cpu"))


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.0, 0.03])
def test_logits_for_training_are_those_of_the_engine(trainer, packer, ring, threshold):
    """Two streams of three chunks of four grids, with and without dropped tokens: the engine leaves them out, the trainer masks
    them."""
    picks = batches.draw_picks(random.Random(1), ring, ring.usable(), 3, 4, 2)
    clips, order = np.unique(picks, return_inverse=True)
    asked = [(0, "title", "What is the title of this video?", "A"), (2, "now", "Read the text on screen.", "Bc")]
    packed = packer.batch([dict(prefix=packer.prefix(GRID, 3, 4, 2), branches=asked)] * 2)
    batch = packed | {"order": torch.from_numpy(order.reshape(picks.shape))}
    what, shown = dict(grid=GRID, per_chunk=4, threshold=threshold), ring.clips[torch.from_numpy(clips)]
    ours, settings = trainer(shown, what, batch), checkpoint.image_processor()
    left_out = trainer.left_out(trainer.patches(shown), what, batch)
    for row, grids in enumerate(batch["order"]):
        engine = VideoStreamingInference(trainer.model, Processor(packer.tokenizer, settings), "cpu", drop_static=threshold)
        chunks = shown[grids].flatten(0, 1).permute(0, 2, 3, 1).unflatten(0, (3, 8))
        for index, chunk in enumerate(chunks):
            engine.append_video_chunk(chunk.numpy(), fps=2.0)
            if threshold:
                kept = changed_patches(*patchify(chunk, settings, "cpu"), settings, threshold)
                assert (~kept).sum() > 0 and torch.equal(left_out[row].view(3, -1)[index], ~kept.flatten())
            for number, (at, _, question, _) in enumerate(asked):
                if at == index:
                    first = (batch["owner"] == 2 * row + number).nonzero()[0, 0]
                    expected = engine.question_logits(question)[0, : ours.shape[1]]
                    torch.testing.assert_close(ours[first], expected, rtol=1e-3, atol=1e-4)


def test_a_stream_for_training_has_the_positions_of_the_engine(packer):
    ids, positions, ends = packer.prefix(GRID, 3, 2, 2)
    before = [len(packer.tokens(packing.SYSTEM + packing.BEFORE)), *[len(packer.tokens(packing.BEFORE))] * 2]
    after, start, expected = len(packer.tokens(packing.AFTER)), 0, []
    for text in before:
        chunk, start = chunk_positions(text, (2, *GRID), after, start, 2)
        expected.append(chunk)
    assert torch.equal(torch.from_numpy(positions), torch.cat(expected, 1))
    assert ends[-1] == (len(ids), start)


def test_a_branch_attends_to_its_part_of_the_stream_and_to_itself():
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, -1]])
    limit = torch.tensor([[3, 3, 3, 2, 2, 3, 3]])
    mask = branch_mask(branch, limit)[0, 0]
    rows = ["1......", "11.....", "111....", "11.1...", "11.11..", "111..1.", "111...1"]
    assert mask.tolist() == [[mark == "1" for mark in row] for row in rows]


def test_an_answer_is_predicted_from_the_token_before_it(packer):
    prefix = packer.prefix(GRID, 2, 1, 2)
    batch = packer.batch([dict(prefix=prefix, branches=[(0, "now", "What?", "abc"), (1, "title", "Which?", "de")])])
    ids = batch["ids"].flatten()
    assert torch.equal(ids[batch["predict"] + 1], batch["target"])
    assert [packer.tokenizer.decode(batch["target"][batch["owner"] == n]) for n in (0, 1)] == ["abc<|im_end|>", "de<|im_end|>"]
    assert batch["kinds"] == ["now", "title"] and batch["branched"]


@pytest.mark.parametrize("per_chunk", [1, 2])
def test_one_update_lowers_the_loss_and_is_reproducible(packer, ring, per_chunk):
    def updated() -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        trainer = Trainer(checkpoint.build_model(packer.tokenizer, "tiny"), torch.device("cpu"))
        what = dict(grid=GRID, chunks=2, per_chunk=per_chunk, count=2, questions=2, threshold=0.05 * (per_chunk - 1))
        batch = batches.draw_batch(packer, ring, random.Random(0), **what)
        optimizers = loop.make_optimizers(trainer)
        found = [loop.update(trainer, optimizers, ring, what, batch, (0.5, 1), 1e-3, 0.5) for _ in range(4)]
        assert found[-1][1].tolist() == [0.5, 1.0], "one rank alone is its own average"
        return [answer.item() for (answer, _), _ in found], torch.cat([p.detach().flatten() for p in trainer.parameters()])

    losses, weights = updated()
    again, weights_again = updated()
    assert losses[-1] < losses[0]
    assert losses == again and torch.equal(weights, weights_again)


def averaged(rank: int, address: str, found) -> None:
    """One of two ranks: a parameter that both have a gradient of, and one that only the first rank's batch has used."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    both, one = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    one.grad = None if rank else torch.ones(2)
    told = loop.average([both, one], (0.25 + rank / 2, rank), torch.device("cpu"))
    found.put((told.tolist(), both.grad.tolist(), one.grad.tolist()))
    dist.destroy_process_group()


def test_gradients_are_averaged_over_ranks(tmp_path):
    found = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(averaged, (f"file://{tmp_path}/meeting", found), 2)
    assert [found.get(), found.get()] == [([0.5, 0.5], [1.5, 3.0], [0.5, 0.5])] * 2


def test_streams_are_drawn_once_the_reader_reads_and_late_in_any_case():
    def plans(share: float, reads: bool) -> list[dict]:
        return [schedule.plan(random.Random(seed), share, 64, reads, GRIDS) for seed in range(300)]

    assert {plan["chunks"] for plan in plans(0.2, False)} == {1}
    for drawn in (plans(0.2, True), plans(0.31, False)):
        in_view = [plan["chunks"] * plan["per_chunk"] for plan in drawn]
        assert max(in_view) == IN_VIEW and {plan["per_chunk"] for plan in drawn} == {1, 2, 3, 4, 8}
        assert {plan["grid"] for plan in drawn} == set(GRIDS)
        dropping = [plan.get("threshold", 0) for plan in drawn if plan["per_chunk"] > 1]
        assert 0.2 < np.mean(np.array(dropping) == 0) < 0.4 and max(dropping) <= 0.1


def test_the_learning_rate_rises_and_falls_to_a_hundredth():
    assert schedule.learning_rate(0, 300, 0.0, 1.0) == pytest.approx(1 / 300)
    assert schedule.learning_rate(299, 300, 0.0, 1.0) == 1.0
    assert schedule.learning_rate(300, 300, 0.5, 1.0) == pytest.approx(0.505)
    assert schedule.learning_rate(9, 10, 1.0, 1.0) == schedule.learning_rate(10, 10, 1.2, 1.0) == pytest.approx(0.01)


def test_the_log_counts_the_runs_and_only_the_first_rank_writes(tmp_path):
    new = History(tmp_path, writes=True)
    assert new.runs == 0
    for line in (dict(parameters=1), dict(s=5), dict(parameters=1)):
        new.say(**line)
    again = History(tmp_path, writes=False)
    assert again.runs == 2
    again.say(s=13)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_checkpoint_is_replaced_whole(tmp_path, packer, monkeypatch):
    model = checkpoint.build_model(packer.tokenizer, "tiny")
    checkpoint.save_checkpoint(model, packer.tokenizer, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    monkeypatch.setattr(checkpoint, "image_processor", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save_checkpoint(model, packer.tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    monkeypatch.undo()
    checkpoint.save_checkpoint(model, packer.tokenizer, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    other = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(other.lm_head.weight, model.lm_head.weight, rtol=1e-2, atol=1e-2)


def test_the_training_fonts_are_those_of_the_training_split(tmp_path):
    train = {f"family{number}": [f"{number}-1.ttf", f"{number}-2.ttf"] for number in range(100)}
    (tmp_path / "fonts.json").write_text(json.dumps({"train": train, "held_out": {"c": ["c.ttf"]}}))
    split = font_families(tmp_path)
    assert sorted(split["train"] + split["monitor"]) == sorted(
        [[f"{tmp_path}/{face}" for face in faces] for faces in train.values()]
    )
    assert 1 <= len(split["monitor"]) <= 12


def test_smoke_trains_goes_on_and_answers_through_the_engine(tmp_path):
    """The whole script, with its processes, as a user runs it."""
    command = [sys.executable, str(paths.ROOT / "data" / "train_reader.py"), "--smoke", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.splitlines()[-1])["losses"]
    assert np.mean(losses[-3:]) < 0.93 * losses[0]
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert sum("parameters" in line for line in log) == 2 and log[-1]["done"] and log[-1]["s"] == 50
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 1e6


def test_without_fonts_the_script_says_what_to_give(tmp_path):
    command = [sys.executable, str(paths.ROOT / "data" / "train_reader.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "give the folder that collect_fonts.py wrote, or --smoke" in done.stderr


def test_a_process_ends_although_its_news_are_not_read(tmp_path):
    """More texts than a pipe holds wait for the composing process when training stops."""
    code = f"""
import sys, torch
from pathlib import Path
sys.path.insert(0, {str(paths.ROOT / "data")!r})
from training.feed import Feed
from training.settings import Settings
if __name__ == "__main__":
    settings = Settings(None, Path({str(tmp_path)!r}), 1, "tiny", workers=0, capacity=960)
    feed = Feed(0, 1, settings, 0, Path({str(tmp_path)!r}), torch.device("cpu"))
    feed.stop()
    for _ in range(100):
        feed.news.put(((5, 10), ["x" * 10_000]))
    print("stopped")
"""
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "stopped\n", done.stderr[-2000:]


def test_muon_in_batches_is_that_of_torch():
    torch.manual_seed(0)
    shapes = [(8, 24), (8, 24), (24, 8), (8, 24), (16, 16)]
    ours, theirs = ([torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(n)))
                     for n, shape in enumerate(shapes)] for _ in range(2))  # fmt: skip
    one = Muon(ours, 0.05, weight_decay=0.1)
    other = torch.optim.Muon(theirs, 0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(shapes[number])
            for parameter in pair:
                parameter.grad = None if (step, number) == (1, 3) else gradient  # a matrix that a step does not use
        one.step()
        other.step()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=2e-3)  # the iteration is in bf16
    assert not torch.allclose(ours[0], torch.randn(shapes[0], generator=torch.Generator().manual_seed(0)), atol=0.05)
