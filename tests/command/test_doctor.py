"""What `kvlib doctor` says of this machine and of a checkpoint, against numbers worked out by hand."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from kvlib.lab import doctor
from kvlib.lab.report.paths import READER
from kvlib.lab.study.clips import write_video

CPU = torch.device("cpu")
SHAPES_3B = dict(
    hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2,
    vocab_size=151936, layer_types=["full_attention"] * 36, max_position_embeddings=128000,
)  # fmt: skip
VISION = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048)
PARAMETERS_3B = 3_754_622_976  # of these shapes, the output layer tied to the embedding


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the embedded reader that a test may change."""
    return shutil.copytree(READER, tmp_path / "reader")


@pytest.fixture
def config_3b(checkpoint):
    """The shapes of Qwen2.5-VL-3B with the reader's tokenizer, and no weights."""
    (checkpoint / "model.safetensors").unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= SHAPES_3B
    config["text_config"]["rope_parameters"]["mrope_section"] = [16, 24, 24]
    config["vision_config"] |= VISION
    (checkpoint / "config.json").write_text(json.dumps(config))
    images = json.loads((checkpoint / "preprocessor_config.json").read_text())
    images["size"] = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(images))
    return checkpoint


def rows_of(folder, device=CPU) -> dict[str, doctor.Row]:
    rows, _ = doctor.model_rows(folder, device)
    return {row.what: row for row in rows}


def test_numbers_of_the_3b_model(config_3b, monkeypatch):
    monkeypatch.setattr(doctor, "free_bytes", lambda device: 24 * 2**30)
    rows = rows_of(config_3b)
    assert rows["chunk"].found == "5,389 tokens"
    assert rows["token"].found == "36,864 bytes in bf16, 73,728 bytes in fp32"
    assert rows["weights"].found.startswith("3.75 billion parameters, 14.0 GiB")
    fit = (24 * 2**30 - 4 * PARAMETERS_3B) // 73_728
    assert rows["cache"].found == f"{fit:,} tokens" and f"{fit // 5389} such chunks" in rows["cache"].meaning
    assert rows["checkpoint"].found == "would not load" and "no " in rows["checkpoint"].meaning


def test_a_gpu_has_bf16_weights_and_cache(config_3b, monkeypatch):
    """A 24 GB card has room for (23.3 GiB - 2 x parameters - 3.5 GiB for a chunk) / 36,864 tokens."""
    monkeypatch.setattr(doctor, "free_bytes", lambda device: int(23.3 * 2**30))
    rows = rows_of(config_3b, torch.device("cuda"))
    assert rows["cache"].found == f"{(int(23.3 * 2**30) - 2 * PARAMETERS_3B - int(3.5 * 2**30)) // 36_864:,} tokens"
    monkeypatch.setattr(doctor, "free_bytes", lambda device: 2**30)
    rows = rows_of(config_3b, torch.device("cuda"))
    assert rows["cache"].found == "0 tokens" and not rows["weights"].good


def test_the_reader_would_load_and_the_command_uses_what_fits(monkeypatch):
    bytes_of_weights = 4 * sum(len(rows) for rows in tensors_of(READER))
    monkeypatch.setattr(doctor, "free_bytes", lambda device: bytes_of_weights + 5120 * 8000)
    rows, command = doctor.model_rows(READER, CPU)
    assert all(row.good for row in rows)
    assert {row.what: row.found for row in rows}["cache"] == "8,000 tokens"
    assert command.startswith(f".venv/bin/kvlib workbook 02_oom_free -p MODEL_PATH {READER} ")
    assert "-p MAX_CACHE_TOKENS 8000 " in command


def tensors_of(folder):
    from safetensors.torch import load_file

    return [tensor.flatten() for tensor in load_file(folder / "model.safetensors").values()]


def test_no_weights_are_read(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    monkeypatch.setattr("transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained", None)
    before = torch.get_default_dtype()
    assert rows_of(READER)["checkpoint"].good
    assert torch.get_default_dtype() == before


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def missing_shard(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def damaged_index(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text("{")


def missing_tensors(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def other_architecture(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is cut or damaged"),
        (pointer, "model.safetensors' is a Git LFS pointer"),
        (missing_shard, "a.safetensors' lacks tensors"),
        (missing_tensors, "lacks 1 of the model's tensors"),
        (other_architecture, "bert"),
        (damaged_index, "index.json' is not valid JSON"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
    ],
)
def test_a_damaged_checkpoint_is_named(checkpoint, damage, message):
    damage(checkpoint)
    rows, command = doctor.model_rows(checkpoint, CPU)
    row = next(row for row in rows if row.what == "checkpoint")
    assert row.found == "would not load" and message in row.meaning and not row.good
    assert command == ""


def test_the_table_names_everything_and_the_exit_status_is_of_the_model(kvlib, checkpoint):
    status, shown = kvlib("doctor")
    assert status == 0
    for what in ("Python", "torch", "device", "memory", "attention", "Triton", "video", "Chromium", "Chinese font"):
        assert what in shown, what
    assert kvlib("doctor", "--model", str(READER))[0] == 0
    cut(checkpoint)
    status, shown = kvlib("doctor", "--model", str(checkpoint))
    assert status == 1 and "would not load" in shown


def test_a_video_is_forecast_at_its_own_size_and_smaller_ones(kvlib, tmp_path):
    write_video(tmp_path / "hd.mp4", [np.zeros((720, 960, 3), np.uint8)] * 2, fps=1.0)
    status, shown = kvlib("doctor", "--video", str(tmp_path / "hd.mp4"))
    assert status == 0 and "chunks of 2 frames at 1 frames per second, a full cache of 800 tokens" in shown
    for size in ("960x720", "640x480", "480x360"):
        # the reader's limit of 41,325 pixels: 168 x 224, so 6 x 8 merged patches, and 7 tokens of the turn; in two seconds
        assert re.search(rf"{size} ┃? ?55 28 [0-9.e-]+ 0.269 MiB 14 (yes|no)", shown), shown
    assert shown.count("MiB") == 3, "no size above the video's own"


def test_a_video_that_cannot_be_read_is_a_wrong_argument(kvlib):
    status, shown = kvlib("doctor", "--video", "nowhere.mp4")
    assert status == 2 and "no video at" in shown


def test_kernels_on_a_cpu_are_the_plain_ones():
    assert doctor.attention_path(CPU)[0] == "plain"
    assert doctor.compiler_state(CPU)[0] == "not used"


@pytest.mark.parametrize(
    ("flash", "capability", "expected"),
    [(False, (9, 0), "plain"), (True, (8, 9), "flash"), (True, (9, 0), "cuDNN and flash")],
)
def test_kernels_on_a_gpu(monkeypatch, flash, capability, expected):
    monkeypatch.setattr(doctor, "has_flash", lambda *tensors: flash)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, device, dtype: empty(*shape, dtype=dtype))
    assert doctor.attention_path(torch.device("cuda"))[0] == expected


def test_a_missing_chinese_font_and_browser_have_a_remedy(monkeypatch):
    def none():
        raise RuntimeError("no font")

    monkeypatch.setattr(doctor, "chinese_font", none)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    rows = {row.what: row for row in doctor.tool_rows()}
    assert "fonts-noto-cjk" in rows["Chinese font"].meaning and "chromium" in rows["Chromium"].meaning
    assert all(row.good for row in rows.values()), "neither is needed"
