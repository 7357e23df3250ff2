"""Loading from a checkpoint directory, and the two refusals."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2Config, Qwen2ForCausalLM

from kvlib import StreamQwenModel, VideoStreamingInference, load_processor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model, processor):
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    return path


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
def test_a_saved_checkpoint_loads_in_the_asked_dtype_and_streams(checkpoint, frames, keyword):
    model = StreamQwenModel.from_pretrained(checkpoint, **{keyword: torch.bfloat16}).to("cpu").eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    engine = VideoStreamingInference(model, load_processor(checkpoint), "cpu")
    info = engine.append_video_chunk(frames())
    assert engine.cache_manager.cache.layers[0].keys.dtype == torch.bfloat16
    assert info["cache_seq_length"] > 0
    assert isinstance(engine.ask("What?", max_new_tokens=3)[0], str)


def test_loaded_weights_and_settings_are_the_saved_ones(checkpoint, model, processor):
    loaded = StreamQwenModel.from_pretrained(checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    settings = load_processor(checkpoint).image_processor
    assert settings.size["longest_edge"] == processor.image_processor.size["longest_edge"]


def test_a_checkpoint_has_the_published_names_of_tensors(checkpoint):
    """Those of Qwen's own files, which transformers renames while loading: the path that real weights take."""
    names = load_file(checkpoint / "model.safetensors")
    assert "visual.patch_embed.proj.weight" in names
    assert "model.layers.0.self_attn.q_proj.weight" in names


def test_a_checkpoint_without_some_tensors_is_refused(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 .*layers\.1\.mlp\.up_proj"):
        StreamQwenModel.from_pretrained(tmp_path)


def test_layers_spread_by_a_device_map_stream_alike(checkpoint, frames):
    """accelerate's hooks on every module, as `device_map="auto"` sets them."""
    plain = StreamQwenModel.from_pretrained(checkpoint).eval()
    spread = StreamQwenModel.from_pretrained(checkpoint, device_map="auto").eval()
    answers = []
    for model in (plain, spread):
        engine = VideoStreamingInference(model, load_processor(checkpoint), "cpu")
        engine.append_video_chunk(frames())
        answers.append(engine.ask("What?", max_new_tokens=8, do_sample=False)[0])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("load", [StreamQwenModel.from_pretrained, load_processor])
def test_another_architecture_and_a_missing_folder_are_refused(tmp_path, load):
    other = Qwen2ForCausalLM(Qwen2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
                                         num_key_value_heads=1, intermediate_size=16))  # fmt: skip
    other.save_pretrained(tmp_path / "qwen2")
    with pytest.raises(ValueError, match="'qwen2'.*Qwen2.5-VL"):
        load(tmp_path / "qwen2")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("load", [StreamQwenModel.from_pretrained, load_processor])
def test_layers_that_forget_by_themselves_are_refused(tmp_path, load):
    config = Qwen2_5_VLConfig(text_config=dict(num_hidden_layers=2, use_sliding_window=True, max_window_layers=1))
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sliding_attention.*use_sliding_window"):
        load(tmp_path)
