"""The parts of the reader's training: the forward, the batches, the clips and the schedule."""

import json
import random
import sys

import numpy as np
import pytest
import torch

from kvlib.lab.report import paths
from kvlib.lab.study.synthetic import dejavu_fonts
from kvlib.ops.positions import chunk_positions

sys.path.insert(0, str(paths.ROOT / "data"))

from training import checkpoint, checks, loop, rendering, rings, schedule, streams  # noqa: E402
from training.blocks import branch_mask  # noqa: E402
from training.trainer import Trainer  # noqa: E402

GRID = (4, 8)  # the smallest


@pytest.fixture(scope="module")
def packer():
    return streams.Packer(checkpoint.build_tokenizer())


@pytest.fixture(scope="module")
def trainer(packer):
    return Trainer(checkpoint.build_model(packer.tokenizer), torch.device("cpu"))


@pytest.fixture(scope="module")
def block():
    """48 clips and their texts, colours and centres, as a rendering worker writes them."""
    clips, scenes, centres = rendering.make_clips(0, [[path] for path in dejavu_fonts()], "train", GRID, 48, 8)
    return clips, [(scene.text, -1, at.tolist()) for scene, at in zip(scenes, centres, strict=True)]


@torch.no_grad()
def test_the_forward_for_training_is_that_of_transformers(trainer, packer):
    assert checks.check_forward(trainer, packer) < 1e-4


def test_a_wrong_forward_stops_the_training(monkeypatch):
    monkeypatch.setattr(loop, "check_forward", lambda trainer, packer: 0.01)
    with pytest.raises(RuntimeError, match="differs from transformers' by 0.01"):
        loop.make_trainer(None, torch.device("cpu"))


def test_a_stream_for_training_has_the_positions_of_the_engine(packer):
    ids, positions, ends = packer.prefix(GRID, 3, 2, 2)
    before = [len(packer.tokens(streams.SYSTEM + streams.BEFORE)), *[len(packer.tokens(streams.BEFORE))] * 2]
    after, start, expected = len(packer.tokens(streams.AFTER)), 0, []
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


def test_clips_show_their_texts_where_their_centres_say(block):
    clips, meta = block
    assert clips.shape == (48, 2, 3, 28 * GRID[0], 28 * GRID[1]) and clips.dtype == np.uint8
    for text, _, centres in meta:
        assert len(centres) == len(text)
        drawn = np.array([at for at, c in zip(centres, text, strict=True) if c not in " \n"])
        assert not len(drawn) or (drawn.min() > 0 and drawn.max() < 1)
    assert any(not text for text, *_ in meta), "some scenes are blank"


def test_a_full_ring_keeps_the_newest_clips_and_spares_those_that_are_next(block):
    clips, meta = block
    ring = rings.Ring(GRID, 100, "cpu")
    assert len(ring.usable()) == 0
    for number in range(3):
        ring.add(np.full_like(clips, number), [(f"{number}", -1, [[0.5, 0.25]])] * 48)
    assert [ring.texts[0], ring.texts[47], ring.texts[48], ring.texts[95]] == ["2", "2", "1", "1"], (
        "the third replaces the first"
    )
    assert ring.clips[0].eq(2).all() and ring.clips[48].eq(1).all()
    assert ring.glyphs[0, 0].tolist() == [0.0, -0.5, ord("2") - 32]
    assert set(range(48, 54)).isdisjoint(ring.usable()), "the next block is written from 48 on"


def test_one_update_lowers_the_loss_and_is_reproducible(packer, block):
    def updated() -> tuple[list[float], torch.Tensor]:
        trainer = Trainer(checkpoint.build_model(packer.tokenizer), torch.device("cpu"))
        ring = rings.Ring(GRID, 96, "cpu")
        ring.add(*block)
        what = dict(grid=GRID, chunks=2, per_chunk=1, count=2, questions=2)
        batch, picks = streams.draw_batch(packer, ring, rng=random.Random(0), **what)
        optimizer = torch.optim.AdamW(trainer.parameters(), 1e-3)
        found = [loop.update(trainer, optimizer, ring, what, batch | {"picks": picks}, 1e-3, 0.5) for _ in range(4)]
        return [answer.item() for answer, _ in found], torch.cat([p.detach().flatten() for p in trainer.parameters()])

    losses, weights = updated()
    again, weights_again = updated()
    assert losses[-1] < losses[0]
    assert losses == again and torch.equal(weights, weights_again)


def test_streams_are_drawn_once_the_reader_reads_and_late_in_any_case():
    def chunks(share: float, reads: bool) -> set[int]:
        return {schedule.plan(random.Random(seed), share, 64, reads)["chunks"] for seed in range(200)}

    assert chunks(0.2, False) == {1}
    assert max(chunks(0.2, True)) == max(chunks(0.31, False)) == 16


def test_the_learning_rate_rises_for_300_steps_and_falls_to_a_hundredth():
    assert schedule.learning_rate(0, 0.0, 1.0) == pytest.approx(1 / 300)
    assert schedule.learning_rate(299, 0.0, 1.0) == 1.0
    assert schedule.learning_rate(300, 0.5, 1.0) == pytest.approx(0.505)
    assert schedule.learning_rate(300, 1.0, 1.0) == schedule.learning_rate(300, 1.2, 1.0) == pytest.approx(0.01)


def test_the_training_fonts_are_those_of_the_training_split(tmp_path):
    split = {"train": {"a": ["a-1.ttf", "a-2.ttf"], "b": ["b.ttf"]}, "held_out": {"c": ["c.ttf"]}}
    (tmp_path / "fonts.json").write_text(json.dumps(split))
    assert loop.training_faces(tmp_path) == [[f"{tmp_path}/a-1.ttf", f"{tmp_path}/a-2.ttf"], [f"{tmp_path}/b.ttf"]]


@torch.no_grad()
def test_training_continues_from_a_shallower_vision_tower(tmp_path):
    shallow, deep = (checkpoint.build_model(checkpoint.build_tokenizer()) for _ in range(2))
    for parameter in shallow.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    shallow.model.visual.blocks = shallow.model.visual.blocks[:5]
    shallow.config.vision_config.depth = 5
    shallow.save_pretrained(tmp_path)
    checkpoint.continue_from(deep, tmp_path)
    patches, grid = torch.randn(200, 1176), torch.tensor([[1, 10, 20]])
    towers = [model.model.visual(patches, grid_thw=grid).pooler_output for model in (shallow, deep)]
    torch.testing.assert_close(towers[1], towers[0])
    for name, tensor in shallow.model.language_model.state_dict().items():
        assert torch.equal(deep.model.language_model.state_dict()[name], tensor), name
