"""The embedded reader: a plain checkpoint, exact in the engine, and scored as its card says."""

import json

import jiwer
import pytest
import srt
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import runs
from kvlib.lab.study.synthetic import QUESTIONS
from kvlib.ops.pixels import patchify
from kvlib.video import VideoChunks

SHORT = paths.ROOT / "data" / "clips" / "short.mp4"


@pytest.fixture(scope="module")
def reader():
    return runs.load(str(paths.READER), torch.device("cpu"))


@pytest.fixture(scope="module")
def chunks():
    """The short clip, decoded: [(second at which the chunk begins, frames)]."""
    return list(VideoChunks(SHORT, 2, 2.0))


def test_is_a_plain_checkpoint_of_the_size_it_claims():
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(paths.READER)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 11.2e6
    assert (paths.READER / "model.safetensors").stat().st_size <= 24e6
    tokenizer = AutoTokenizer.from_pretrained(paths.READER)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Hi"}]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Hi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt


@torch.no_grad()
def test_streaming_equals_one_forward(reader, chunks):
    model, processor = reader
    engine = VideoStreamingInference(model, processor, "cpu")
    frames = [frames for _, frames in chunks[:5]]
    for part in frames:
        engine.append_video_chunk(part)
    answer, _ = engine.ask("What?", max_new_tokens=8, do_sample=False)
    expected, expected_answer = one_forward(model, processor, frames, "What?", 8)
    for stored, (keys, values, *_) in zip(engine.cache_manager.cache.layers, expected, strict=True):
        length = stored.keys.shape[-2]
        torch.testing.assert_close(stored.keys, keys[:, :, :length], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stored.values, values[:, :, :length], rtol=1e-4, atol=1e-4)
    assert answer == expected_answer != ""


def one_forward(model, processor, chunks, question: str, new_tokens: int):
    """Keys and values of all layers, and the greedy answer, of transformers' whole model over the same turns."""
    text, patches, grids = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", [], []
    for chunk in chunks:
        pictures = processor.image_processor(images=list(chunk[:1]), return_tensors="pt")  # for the grid
        _, rows, columns = pictures["image_grid_thw"][0].tolist()
        part, grid = patchify(torch.from_numpy(chunk), processor.image_processor, "cpu")
        assert grid == (-(-len(chunk) // 2), rows, columns)
        patches.append(part)
        grids.append(grid)
        pads = "<|video_pad|>" * (grid[0] * grid[1] * grid[2] // 4)
        text += f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|><|im_end|>\n"
    text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
    prompt, stop = ids.shape[1], processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    while ids.shape[1] < prompt + new_tokens and ids[0, -1] != stop:
        out = model(
            input_ids=ids,
            mm_token_type_ids=(ids == model.config.video_token_id) * 2,
            pixel_values_videos=torch.cat(patches),
            video_grid_thw=torch.tensor(grids),
            second_per_grid_ts=torch.ones(len(chunks)),
            use_cache=True,
        )
        model.model.rope_deltas = None
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], 1)
    return out.past_key_values, processor.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True).strip()


def test_reads_the_clip_while_it_streams_and_remembers_its_title(reader, chunks):
    subtitles = list(srt.parse(SHORT.with_suffix(".srt").read_text()))
    engine = VideoStreamingInference(*reader, "cpu", eviction_config=EvictionConfig(max_cache_tokens=500))
    shown, read = [], []
    for second, frames in chunks:
        engine.append_video_chunk(frames)
        shown += [s.content for s in subtitles if s.start.total_seconds() <= second < s.end.total_seconds()]
        before = engine.cache_manager.fingerprint()
        read.append(engine.ask(QUESTIONS["now"][0], do_sample=False)[0])
        assert engine.cache_manager.fingerprint() == before
    assert engine.get_cache_info()["eviction_stats"]["total_evictions"] > 0
    assert jiwer.cer(shown, read) < 0.05, read
    assert engine.ask(QUESTIONS["title"][0], do_sample=False)[0] == read[0]


def test_its_card_says_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(paths.ROOT / "data"))
    from evaluation.card import write_card
    from evaluation.scores import verdicts
    from evaluation.streams import CONDITIONS

    result = json.loads((paths.READER / "evaluation.json").read_text())
    assert result["bars"] == verdicts(result["kinds"])
    assert result["streams"] == {condition.name: condition.streams for condition in CONDITIONS}
    lines = [row["n"] for row in result["kinds"] if row["kind"] == "current line"]
    assert len(lines) == len(CONDITIONS) and min(lines) >= 450
    write_card(result, paths.READER, tmp_path)
    assert (tmp_path / "README.md").read_text() == (paths.READER / "README.md").read_text()
