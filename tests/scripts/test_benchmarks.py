"""The arithmetic of the benchmarks, and that the README quotes their results."""

import json
import sys

import pytest
import torch
from helpers import SHAPES_OF_SISTERS
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text

from kvlib import EvictionConfig
from kvlib.lab.doctor import count_parameters
from kvlib.lab.figures.style import looks_of
from kvlib.lab.report import paths

FOLDER = paths.ROOT / "benchmarks"
sys.path[:0] = [str(FOLDER), str(FOLDER / "public")]

import answers  # noqa: E402
import draw  # noqa: E402
import drop_static  # noqa: E402
import internals  # noqa: E402
import logits  # noqa: E402
import measure  # noqa: E402
import methods  # noqa: E402
import shapes  # noqa: E402
import streamed_once  # noqa: E402

RESULTS = json.loads((FOLDER / "results" / "h200_3b.json").read_text())


@torch.no_grad()
def test_the_plain_loop_is_the_same_computation(model, processor):
    found = logits.logits_against_fp32(model, processor, torch.device("cpu"), (252, 448))
    for name in ("kvlib", "plain"):
        assert found[name]["relative_error"] < 1e-5
        assert all(found[name]["same_likeliest"])


@torch.no_grad()
@pytest.mark.parametrize("mode", ["remap", "unrotated"])
def test_a_filled_cache_evicts_a_chunk_for_a_chunk(model, processor, frames, mode):
    method = methods.Streaming(model, processor, torch.device("cpu"), 300, frames(2), mode)
    measured = measure.measured(method, frames(2), 300, 2, torch.device("cpu"))
    info = method.engine.get_cache_info()
    assert 300 - method.chunk < info["cache_seq_length"] <= 300 + method.chunk
    assert info["eviction_stats"]["total_evictions"] == 3  # two to warm up and two measured, the first of which still fits
    assert set(measured["seconds"]) == {"prepare", "vision", "evict", "evict, mean", "language", "chunk"}
    assert measured["seconds"]["chunk"] > measured["seconds"]["vision"] > 0
    low, high = measured["spread"]["chunk"]
    assert 0 < low <= measured["seconds"]["chunk"] <= high


@torch.no_grad()
def test_the_parts_that_full_shape_compares_are_those_of_transformers(model):
    visual, language = model.model.visual, model.model.language_model
    patches, grid = torch.randn(2 * 4 * 6, 1176), (2, 4, 6)
    expected = visual(patches, grid_thw=torch.tensor([grid])).pooler_output
    torch.testing.assert_close(internals.vision_features(model, patches, grid), expected, rtol=1e-4, atol=1e-4)
    embeddings = torch.randn(1, 20, language.config.hidden_size)
    expected = language(inputs_embeds=embeddings, position_ids=torch.arange(20).expand(3, 1, -1)).last_hidden_state
    found = internals.hidden_in_parts(language, embeddings, (0, 7, 20))
    torch.testing.assert_close(found, expected[:, 7:], rtol=1e-4, atol=1e-4)


def test_a_token_takes_the_bytes_of_its_keys_and_values(engine, model, frames):
    streamed, text = engine(EvictionConfig(300)), model.config.text_config
    info = streamed.append_video_chunk(frames(2))
    head = text.hidden_size // text.num_attention_heads
    expected = text.num_hidden_layers * 2 * text.num_key_value_heads * head * 4  # bytes, fp32
    assert info["cache_bytes"] / internals.capacity_of(streamed) == expected


def test_attention_operations_are_those_that_are_not_masked(model):
    text = model.config.text_config
    seen = sum(13 + row + 1 for row in range(7))  # of 7 tokens after 13
    exact = 2 * 2 * seen * text.hidden_size * text.num_hidden_layers
    assert measure.flops(model, (1, 4, 6), 7, 13)["attention"] == exact


@torch.no_grad()
def test_what_dropping_saves_is_counted_from_the_stream(model, processor):
    noise = torch.randint(256, (5, 112, 84, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = drop_static.banded(noise, 0.5)  # of 4 x 3 merged patches in each of four grids the upper half stands still
    device, drops = torch.device("cpu"), (0.0, drop_static.THRESHOLD)
    engines = {drop: drop_static.filled(model, processor, device, frames, 400, drop) for drop in drops}
    whole, less = drop_static.process(engines, [frames] * 3, device)
    tokens, dropped = engines[0.0].count_tokens(torch.as_tensor(frames)), 3 * 6
    assert whole["dropped_share"] == 0 and less["dropped_share"] == dropped / tokens
    assert less["stored_tokens_per_s_of_video"] == (tokens - dropped) / 4
    assert less["frames_per_s"] * less["mean_chunk_seconds"] == pytest.approx(8)
    saved = 1 - less["mean_chunk_seconds"] / whole["mean_chunk_seconds"]
    assert less["saved_time_over_saved_tokens"] == pytest.approx(saved / less["dropped_share"])


def test_a_target_is_met_or_missed():
    worse = json.loads(json.dumps(RESULTS))
    for row in worse["runs"]:
        if row["method"] == "kvlib":
            row["seconds"]["chunk"] *= 2
    verdicts = {what: met for what, _, _, met in draw.bars(worse)}
    assert verdicts["whole chunk at 130k tokens, times faster than plain"] is False
    verdicts = {what: met for what, _, _, met in draw.bars(RESULTS)}
    assert verdicts["whole chunk at 130k tokens, times faster than plain"] is True


@pytest.mark.parametrize(("most", "high", "found"), [(123_456, 250_001, 120_000), (61_500, 150_000, 61_000), (900, 40_000, 0)])
def test_the_largest_cache_is_found_by_bisection(most, high, found, monkeypatch):
    monkeypatch.setattr(measure, "fits", lambda make_for, frames, tokens: tokens <= most)
    assert measure.largest(None, None, high) == found


def test_the_readme_says_what_was_measured():
    readme = (paths.ROOT / "README.md").read_text()
    for what, measured, _, _ in draw.bars(RESULTS):
        if what.startswith(("whole chunk", "vision", "decoded")):
            assert f"{float(measured[:-1]):.1f}\ntimes" in readme or f"{float(measured[:-1]):.1f} times" in readme, what
    assert f"{RESULTS['largest']['kvlib']:,}" in readme
    longest = next(row for row in RESULTS["runs"] if (row["tokens"], row["method"]) == (130_000, "kvlib"))
    assert f"first token after {1e3 * longest['ttft']:.0f} ms" in readme
    larger = json.loads((FOLDER / "results" / "h200_7b.json").read_text())
    rates = [f"{stream['frames_per_s']:.0f}" for found in (RESULTS, larger) for stream in found["long_streams"]]
    assert f"at {rates[1]} frames/s ({rates[3]} with" in readme
    notes = " ".join((FOLDER / "README.md").read_text().split())
    assert "at 3B {} frames/s with 2 frames a chunk and {} with 8, at 7B {} and {}.".format(*rates) in notes


@pytest.mark.parametrize("shape", SHAPES_OF_SISTERS)
def test_the_table_of_the_sisters_is_that_of_the_results(shape, processor):
    found = json.loads((FOLDER / "results" / f"h100_{shape}.json").read_text())
    runs = {row["method"]: row for row in found["runs"]}
    plain, ours, small = runs["plain"], runs["kvlib"], runs["kvlib, 8-bit"]
    faster = [plain["seconds"][stage] / ours["seconds"][stage] for stage in ("chunk", "vision")]
    decoded = [row["decode_tokens_per_s"] / plain["decode_tokens_per_s"] for row in (ours, small)]
    layers = shapes.config(shape, processor.tokenizer).text_config.num_hidden_layers
    language, alone = 1e3 * ours["seconds"]["language"], 1e3 * layers * found["attention"][0]["seconds"]
    row = [SHAPES_OF_SISTERS[shape], f"{found['chunk']['tokens']:,}", f"{ours['tokens']:,}"]
    row += [
        *(f"{times:.2f}" for times in faster),
        f"{plain['ttft'] / ours['ttft']:.1f}",
        *(f"{times:.2f}" for times in decoded),
    ]
    row += [f"{language:.0f} ms", f"{alone:.0f} ms"]
    row += [f"{found['largest'][name]:,}" for name in ("plain", "kvlib", "kvlib, 8-bit")]
    assert f"| {' | '.join(row)} |" in (FOLDER / "README.md").read_text()
    assert (FOLDER / "results" / f"h100_{shape}.txt").read_text() == draw.text(found)
    for readme in ("README.md", "README.zh.md"):
        assert f"{faster[0]:.1f}" in (paths.ROOT / readme).read_text()


def test_rates_of_the_sisters_are_those_of_the_results():
    found = [json.loads((FOLDER / "results" / f"h100_{shape}.json").read_text()) for shape in SHAPES_OF_SISTERS]
    rates = [row["attention"][0]["flops"] / 1e12 for row in found]
    products = [row["ceilings"]["matmul_flops"] / 1e12 for row in found]
    notes = " ".join((FOLDER / "README.md").read_text().split())
    assert f"attention, which runs at {min(rates):.0f} to {max(rates):.0f} TFLOP/s" in notes
    assert f"a large matrix product reaches {min(products):.0f} to {max(products):.0f} on this card" in notes


def test_the_table_and_the_figure_are_those_of_the_results():
    assert (FOLDER / "results" / "h200_3b.txt").read_text() == draw.text(RESULTS)
    bars = draw.draw(RESULTS).axes[0].patches
    assert len(bars) == 5 * len(draw.table(RESULTS))
    stages = [sum(row["seconds"].get(s, 0) for s in draw.STAGES) for row in RESULTS["runs"]]
    wholes = [row["seconds"]["chunk"] for row in RESULTS["runs"]]
    ends = [sum(bar.get_width() for bar in bars[i : i + 5]) for i in range(0, len(bars), 5)]
    assert sorted(ends) == pytest.approx(sorted(map(max, stages, wholes))), "a bar ends at the median of the whole chunk"
    assert max(whole / stage for whole, stage in zip(wholes, stages, strict=True)) > 1.008, "or the line above tells nothing"


def test_a_method_has_one_colour_in_all_panels_of_the_figure_and_a_stage_one_hatch():
    chunk, token, first, fits = draw.draw(RESULTS).axes
    colors = {name: to_rgba(look["color"]) for name, look in looks_of(draw.NAMES).items()}
    assert len(set(colors.values())) == 4
    names = [text.get_text() for text in chunk.get_yticklabels()]
    for bar in chunk.patches:
        assert bar.get_facecolor() == colors[names[round(bar.get_y() + bar.get_height() / 2)]]
    assert {bar.get_hatch() or "" for bar in chunk.patches} == set(draw.PARTS.values())
    for axis in (token, first):
        drawn = {found.get_label(): to_rgba(found.lines[0].get_color()) for found in axis.containers}
        assert drawn == {draw.NAMES[name]: color for name, color in colors.items()}
        assert {found.lines[0].get_linestyle() for found in axis.containers} == {"None"}
    assert [bar.get_facecolor() for bar in fits.patches] == [colors[name] for name in RESULTS["largest"]]


def test_the_spread_of_the_repeats_is_drawn_where_it_was_kept():
    whole, *small = draw.draw(RESULTS).axes
    assert "spread not kept" in whole.get_xlabel()
    assert not any(found.has_yerr for axis in small for found in axis.containers if isinstance(found, ErrorbarContainer))
    kept = json.loads(json.dumps(RESULTS))
    for row in kept["runs"]:
        row["spread"] = {"chunk": [0.1, 9.0], "ttft": [0.001, 2.0], "decode_tokens_per_s": [1.0, 1000.0]}
    chunk, token, first, _ = draw.draw(kept).axes
    assert all(found.has_yerr for axis in (token, first) for found in axis.containers)
    assert "lines: least and largest" in chunk.get_xlabel()
    bars = [found for found in chunk.containers if isinstance(found, ErrorbarContainer)]
    assert len(bars) == len(draw.table(kept))
    assert {tuple(found.lines[2][0].get_segments()[0][:, 0].round(9)) for found in bars} == {(0.1, 9.0)}
    for axis, ends in ((token, (1.0, 1000.0)), (first, (1.0, 2000.0))):
        drawn = {tuple(part[:, 1].round(9)) for found in axis.containers for part in found.lines[2][0].get_segments()}
        assert drawn == {ends}, "milliseconds"
        assert axis.get_ylim()[0] < 1 and axis.get_ylim()[1] > 2000


def test_a_single_cache_size_is_said_to_be_the_only_one():
    single = json.loads((FOLDER / "results" / "h200_7b.json").read_text())
    assert draw.draw(single).axes[0].get_title().endswith("only one cache size was measured")
    assert draw.draw(RESULTS).axes[0].get_title() == "One chunk, by stage"


def test_no_text_of_the_figure_is_smaller_than_ten_points():
    fig = draw.draw(RESULTS)
    assert min(text.get_fontsize() for text in fig.findobj(Text) if text.get_text()) >= 10


PUBLISHED = {  # parameters, as the model pages of the published checkpoints say
    "3b": 3_754_622_976, "7b": 8_292_166_656, "qwen2-2b": 2_208_985_600, "qwen2-7b": 8_291_375_616, "qwen3-2b": 2_127_532_032,
    "qwen3-4b": 4_437_815_808, "qwen3-8b": 8_767_123_696,
}  # fmt: skip


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_have_as_many_parameters_as_the_published_models(processor, name):
    assert count_parameters(shapes.config(name, processor.tokenizer)) == PUBLISHED[name]


def test_the_title_of_the_clip_is_what_its_first_frame_shows(model, processor, monkeypatch):
    """The first chunk of eight frames from the seventh on, two a second, ends in the next line."""
    monkeypatch.setattr(answers.paths, "CLIP", paths.DATA / "clips" / "short.mp4")
    monkeypatch.setattr(answers, "FIRST_FRAMES", (6,))
    asked = answers.lyrics(model, processor)
    truths = asked.groupby("question")["truth"].unique()
    assert list(truths["title"]) == ["A Short Clip"] and list(truths["now"]) == ["Amazing grace!", "How sweet the sound"]


def test_hours_of_a_benchmark_by_hand():
    found = streamed_once.projected(
        [10.0, 12.0, 11.0], [20.0, 21.0, 21.0], seconds=110, questions=5, device="NVIDIA H100, 79 GiB"
    )
    assert found["seconds_per_question"] == pytest.approx(2.0)  # medians: 11 s without questions, 10 s for five questions
    assert found["projected_hours"] == pytest.approx(46.4 * 11 / 110 + 3035 * 2 / 3600)
    low, high = (hours / found["projected_hours"] for hours in found["calculated_hours"]["RTX 4090"])
    assert (low, high) == (pytest.approx(3.35 / 1.008), pytest.approx(989 / 165.2))
    assert "calculated_hours" not in streamed_once.projected([1.0], [2.0], 1, 1, "cpu")
    with pytest.raises(ValueError, match="below the noise: give more --questions"):
        streamed_once.projected([10.0, 12.0], [20.0, 11.9], seconds=110, questions=5, device="cpu")
