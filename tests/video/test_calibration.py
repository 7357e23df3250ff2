"""The forecast of a run: operations and bytes against numbers worked out by hand and against torch's own counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kvlib import VideoStreamingInference, load_processor
from kvlib.checkpoint import load_config
from kvlib.families.qwen2_5_vl import QWEN2_5_VL
from kvlib.lab.report import paths
from kvlib.lab.study.clips import write_video
from kvlib.lab.video import calibration
from kvlib.lab.video.calibration import Forecast, Work
from kvlib.lab.video.source import VideoSource
from kvlib.ops.pixels import patchify

CPU = torch.device("cpu")
CLIP = paths.DATA / "clips/short.mp4"  # 12 s at 560 x 280


@pytest.fixture(scope="module")
def config_3b():
    """The reader's configuration with the shapes of Qwen2.5-VL-3B."""
    config = load_config(paths.READER)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 2048, 11008, 36
    text.num_attention_heads, text.num_key_value_heads = 16, 2
    vision.depth, vision.hidden_size, vision.intermediate_size, vision.num_heads = 32, 1280, 3420, 16
    vision.out_hidden_size, vision.fullatt_block_indexes = 2048, [7, 15, 23, 31]
    return config


@pytest.fixture(scope="module")
def published():
    """The reader's tokenizer with the pixel limits of the published checkpoints."""
    made = load_processor(paths.READER)
    made.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return made


def test_tokens_and_bytes_of_1080p_are_those_of_the_original_machine(config_3b, published):
    """39 x 69 merged patches in each of two grids, and 7 tokens of the turn; 11 more for the system turn."""
    grid, tokens, first = calibration.chunk_tokens(config_3b, published, (4, 1080, 1920))
    assert grid == (2, 78, 138)
    assert tokens == 2 * 39 * 69 + 7 == 5389 and first == 5389 + 11
    assert calibration.bytes_per_token(config_3b, 2) == 36_864


def test_tokens_are_those_that_the_engine_counts(model, processor, frames):
    engine = VideoStreamingInference(model, processor, "cpu")
    for size in ((2, 56, 84), (3, 112, 56), (4, 560, 560)):
        chunk = torch.zeros(*size, 3, dtype=torch.uint8)
        _, tokens, first = calibration.chunk_tokens(model.config, processor, size)
        assert (tokens, first) == (engine.count_tokens(chunk), engine.count_tokens(chunk, first=True))


def test_operations_of_3b_shapes_by_hand(config_3b):
    work = calibration.chunk_work(config_3b, (2, 78, 138), 5389, 130_000, (4, 1080, 1920))
    # q and o 2048 x 2048, k and v 2048 x 256, gate, up and down 2048 x 11008
    assert work.linear == 2 * 36 * 5389 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    assert work.attention == 36 * 2 * 2 * 5389 * 130_000 * 16 * 128
    patches = 2 * 78 * 138
    blocks = 32 * patches * (3 * 1280 * 1280 + 1280 * 1280 + 3 * 1280 * 3420)
    mixed = patches * 1280 * 2 * (4 * 78 * 138 + 28 * 64)  # 4 blocks see a whole grid, 28 windows of 8 x 8 patches
    merger = patches // 4 * (5120 * 5120 + 5120 * 2048)
    assert work.vision == 2 * (patches * 3 * 2 * 14 * 14 * 1280 + blocks + mixed + merger)
    assert work.pixels == 4 * 1080 * 1920


@torch.no_grad()
def test_matrix_products_are_as_many_as_torch_counts(model, processor):
    """torch's counter knows products and convolutions of the real modules; attention on a CPU it does not count."""
    engine = VideoStreamingInference(model, processor, "cpu")
    frames = torch.zeros(4, 112, 168, 3, dtype=torch.uint8)
    patches, grid = patchify(frames, processor.image_processor, CPU)
    chunk = engine.encode(frames)
    tokens = engine.count_tokens(frames, first=True)
    with FlopCounterMode(display=False) as counted:
        engine.append_encoded(chunk)
    own = sum(n for op, n in counted.get_flop_counts()["Global"].items() if "attention" not in str(op))
    assert own == 3 * calibration.layer_work(model.config.text_config, tokens)
    with FlopCounterMode(display=False) as counted:
        engine.backbone.vision(patches, grid)
    own = sum(n for op, n in counted.get_flop_counts()["Global"].items() if "attention" not in str(op))
    config = model.config.vision_config
    window = min((112 // 14) ** 2, grid[1] * grid[2])
    attention = 4 * patches.shape[0] * config.hidden_size * (grid[1] * grid[2] + window)  # one block of each kind
    assert own == calibration.vision_work(QWEN2_5_VL, config, grid) - attention


def test_seconds_are_the_sum_over_the_parts():
    assert calibration.predict(Work(100, 60, 30, 8), Work(50, 20, 30, 4)) == 2 + 3 + 1 + 2


def test_rates_are_work_by_time_and_a_slow_device_gets_less_to_do(model, processor, monkeypatch):
    text, settings = model.config.text_config, processor.image_processor
    monkeypatch.setattr(calibration, "fastest", lambda call, device: call() is None or 0.5)
    slow = calibration.measure(model.config, settings, (2, 560, 560), 5000, 100_000, CPU, torch.float32)
    flops = calibration.TRY_S * 2 * 64 * 64 * 96 / 0.5  # what the device does in one timed call
    assert slow.linear == calibration.layer_work(text, max(1, int(flops / calibration.layer_work(text, 1)))) / 0.5
    assert slow.attention * 0.5 <= flops
    assert slow.pixels == 2 * 56 * 560 / 0.5, "not less than two rows of merged patches"
    monkeypatch.setattr(calibration, "fastest", lambda call, device: call() is None or 1e-6)
    quick = calibration.measure(model.config, settings, (2, 56, 84), 50, 200, CPU, torch.float32)
    assert quick.linear == pytest.approx(calibration.layer_work(text, 50) / 1e-6)
    assert quick.attention == pytest.approx(calibration.attention_work(text, 50, 200) / 1e-6)
    assert quick.vision == pytest.approx(
        calibration.vision_work(QWEN2_5_VL, QWEN2_5_VL.reduced(model.config.vision_config), (1, 4, 6)) / 1e-6
    )


def made(**changes) -> Forecast:
    values = dict(
        size=(4, 1080, 1920), seen=(1092, 1932), device=CPU, tokens=5389, first_tokens=5400, seconds=0.5, video_s=2.0,
        token_bytes=36_864, budget=130_000,
    )  # fmt: skip
    return Forecast(**values | changes)


def test_a_forecast_says_whether_a_run_keeps_up_and_how_long_it_takes():
    forecast = made()
    assert forecast.load == 0.25 and forecast.keeps_up and forecast.chunks_in_budget == 24
    assert forecast.chunk_bytes == 198_660_096 and forecast.budget_bytes == 4_792_320_000
    text = forecast.text(1000)
    assert forecast.tokens_per_s == 2694.5
    assert "4 frames of 1920x1080 is 5,389 tokens (2,694 for each second of video), 189 MiB" in text
    assert "0.25 s for each second of video (keeps up with real time)" in text
    assert "1,000 chunks: about 8 min in all" in text and "24 such chunks in 4.46 GiB" in text
    assert "slower than real time" in made(seconds=2.1).text(1) and not made(seconds=2.1).keeps_up


def test_a_forecast_says_that_it_counts_what_will_be_dropped():
    assert "drop_static" not in made().text(1)
    assert made().text(1, 0.03).endswith(" All tokens are counted here, and drop_static=0.03 drops some of them.")
    assert made(budget=10_789).text(1, 0.03).endswith("drops some of them.")
    assert "Without that the first chunk and one more, 10,789 tokens, would not fit" in made(budget=10_788).text(1, 0.03)


def test_a_pixel_limit_that_shrinks_frames_is_named():
    assert "pixel limit" not in made().text(1)
    assert "1920x1080 (which the checkpoint's pixel limit reduces to 252x140)" in made(seen=(140, 252)).text(1)


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "7 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_rounded(seconds, words):
    assert calibration.duration(seconds) == words


def test_resolutions_are_the_video_s_own_and_smaller_ones():
    assert calibration.resolutions(1080, 1920) == [(1080, 1920), (720, 1280), (480, 853), (360, 640)]
    assert calibration.resolutions(480, 640) == [(480, 640), (360, 480)]
    assert calibration.resolutions(100, 300) == [(100, 300)]


def test_a_run_is_announced_for_the_size_that_it_reads(capsys):
    processor, config = load_processor(paths.READER), load_config(paths.READER)
    forecast = calibration.announce(config, processor, VideoSource(CLIP, 4, 2.0, 140), 800, CPU)
    assert forecast.size == (4, 140, 280) and forecast.video_s == 2.0 and forecast.seconds > 0
    assert forecast.token_bytes == 5 * 2 * 2 * 64 * 4
    said = capsys.readouterr().out
    assert "6 chunks" in said and "drop_static" not in said
    calibration.announce(config, processor, VideoSource(CLIP, 4, 2.0, 140), 800, CPU, 0.03)
    assert "drop_static=0.03" in capsys.readouterr().out


def test_the_size_of_the_first_frames_is_found_without_a_progress_bar(capsys):
    assert calibration.first_frames(VideoSource(CLIP, 4, 2.0, 140)) == ((4, 140, 280), 2.0)
    assert capsys.readouterr() == ("", "")


def test_a_video_shorter_than_a_chunk_is_announced(tmp_path, capsys):
    write_video(tmp_path / "one.mp4", [np.zeros((56, 84, 3), np.uint8)], fps=2.0)
    processor, config = load_processor(paths.READER), load_config(paths.READER)
    assert calibration.announce(config, processor, VideoSource(tmp_path / "one.mp4", 8), 800, CPU).size[0] == 1
