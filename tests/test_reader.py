"""The embedded reader: a plain checkpoint, exact in the engine, and scored as its card says."""

import json
import shutil

import jiwer
import pytest
import srt
import torch
from test_stream import next_logits, one_shot_logits
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import experiments
from kvlib.lab.study.synthetic import QUESTIONS
from kvlib.ops.vision import VisionTower
from kvlib.video import VideoChunks

SHORT = paths.ROOT / "data" / "clips" / "short.mp4"


@pytest.fixture(scope="module")
def reader():
    return experiments.load(str(paths.READER), torch.device("cpu"))


@pytest.fixture(scope="module")
def chunks():
    """The short clip, decoded: [(second at which the chunk begins, frames)]."""
    return list(VideoChunks(SHORT, 2, 2.0))


def test_is_a_plain_checkpoint_of_the_size_it_claims():
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(paths.READER)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 8e6
    assert (paths.READER / "model.safetensors").stat().st_size <= 16e6
    tokenizer = AutoTokenizer.from_pretrained(paths.READER)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Hi"}]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Hi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt


def test_streaming_equals_one_forward(reader, chunks):
    model, processor = reader
    engine = VideoStreamingInference(model, processor, "cpu")
    frames = [torch.from_numpy(frames) for _, frames in chunks[:5]]
    for part in frames:
        engine.append_video_chunk(part)
    torch.testing.assert_close(next_logits(engine), one_shot_logits(model, processor, frames), rtol=1e-4, atol=1e-4)
    model.model.rope_deltas = None


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
    import evaluate_reader

    result = json.loads((paths.READER / "evaluation.json").read_text())
    assert result["bars"] == evaluate_reader.verdicts(result)
    assert all(bar["n"] >= 300 for bar in result["bars"])
    shutil.copy(paths.READER / "log.jsonl", tmp_path)
    evaluate_reader.write_card(result, tmp_path)
    assert (tmp_path / "README.md").read_text() == (paths.READER / "README.md").read_text()


@torch.no_grad()
def test_training_continues_from_a_shallower_vision_tower(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(paths.ROOT / "data"))
    import train_reader

    shallow, deep = (train_reader.build_model(train_reader.build_tokenizer()) for _ in range(2))
    for parameter in shallow.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    shallow.model.visual.blocks = shallow.model.visual.blocks[:5]
    shallow.config.vision_config.depth = 5
    shallow.save_pretrained(tmp_path)
    train_reader.continue_from(deep, tmp_path)
    patches, grid = torch.randn(200, 1176), (1, 10, 20)
    towers = [VisionTower(model.model.visual)(patches, grid) for model in (shallow, deep)]
    torch.testing.assert_close(towers[1], towers[0])
    for name, tensor in shallow.model.language_model.state_dict().items():
        assert torch.equal(deep.model.language_model.state_dict()[name], tensor), name
