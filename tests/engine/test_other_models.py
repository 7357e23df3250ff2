"""Models that are more than plain weights: LoRA adapters, quantized layers, YaRN. All against transformers' own forward."""

import copy

import bitsandbytes
import peft
import pytest
import torch
from helpers import one_shot_logits
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding, apply_rotary_pos_emb

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.evictor import POSITION_MODES
from kvlib.ops.fused import is_plain


def with_lora(model):
    """Adapters on every linear layer of both towers, the patch embedding and the token embedding, with weights that matter."""
    torch.manual_seed(1)
    names = (
        r".*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv|attn\.proj|patch_embed\.proj|mlp\.[02]|embed_tokens)"
    )
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=4, target_modules=names))
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter, std=0.2)
    return adapted.eval()


def with_trained_norms(model):
    """Norms that are trained whole: peft wraps them."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm", "norm1", "ln_q"])
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name:
            nn.init.uniform_(parameter, 0.2, 2.0)
    return adapted.eval()


def quantized(model, make):
    made = copy.deepcopy(model)
    for parent in list(made.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not made.lm_head:
                small = make(layer.in_features, layer.out_features, layer.bias is not None)
                small.load_state_dict(layer.state_dict())
                setattr(parent, name, small.to("cpu"))
    return made


MAKERS = {
    "lora": with_lora,
    "trained norms": with_trained_norms,
    "4 bits": lambda model: quantized(model, lambda *size: bitsandbytes.nn.Linear4bit(*size, quant_type="nf4")),
    "8 bits": lambda model: quantized(model, lambda *size: bitsandbytes.nn.Linear8bitLt(*size, has_fp16_weights=False)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", MAKERS)
def test_layers_that_are_not_plain_are_called(model, processor, frames, name):
    changed = MAKERS[name](model)
    base = changed.get_base_model() if isinstance(changed, peft.PeftModel) else changed
    chunks = [frames(2, seed, 112, 168) for seed in range(3)]
    expected = one_shot_logits(base, processor, chunks)
    streamed, plain = (VideoStreamingInference(each, processor, "cpu") for each in (changed, model))
    for chunk in chunks:
        for engine in (streamed, plain):
            engine.append_video_chunk(chunk)
    found = streamed.question_logits("What?")[0]
    change = (plain.question_logits("What?")[0] - expected).norm()
    assert change > 0.02 * expected.norm(), "the change must matter"
    if name == "8 bits":  # activations are rounded row by row, and the one forward has other rows
        assert (found - expected).norm() < 0.5 * change
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert streamed.ask("What?", max_new_tokens=3, do_sample=False)[1]["new_tokens"] > 0


def test_a_module_with_a_hook_is_not_plain():
    layer = nn.Linear(2, 2)
    assert is_plain(layer)
    layer._hf_hook = object()
    assert not is_plain(layer)


@pytest.fixture
def yarn(model):
    made = copy.deepcopy(model)
    text = made.config.text_config
    text.rope_parameters = dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=8192, mrope_section=[2, 3, 3], rope_theta=1e4
    )
    made.model.language_model.rotary_emb = Qwen2_5_VLRotaryEmbedding(text)
    assert made.model.language_model.rotary_emb.attention_scaling > 1.1
    return made


@pytest.mark.parametrize("mode", [None, *POSITION_MODES])
def test_yarn_equals_transformers(yarn, processor, frames, mode):
    streamed = VideoStreamingInference(yarn, processor, "cpu", EvictionConfig(4000, position_mode=mode) if mode else None)
    chunks = [frames(2, seed) for seed in range(4)]
    for chunk in chunks:
        streamed.append_video_chunk(chunk)
    expected = one_shot_logits(yarn, processor, chunks)
    torch.testing.assert_close(streamed.question_logits("What?")[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_yarn_keys_after_evictions_are_those_computed_at_the_new_positions(yarn, processor, frames, mode):
    raw, layer = [], yarn.model.language_model.layers[0]
    hook = layer.self_attn.k_proj.register_forward_hook(lambda _m, _a, out: raw.append(out))
    streamed = VideoStreamingInference(yarn, processor, "cpu", EvictionConfig(120, position_mode=mode))
    for seed in range(9):
        streamed.append_video_chunk(frames(2, seed))
    hook.remove()
    manager = streamed.cache_manager
    assert manager.evictor.total_evictions > 2
    keys = torch.cat([raw[chunk.index].unflatten(-1, (2, -1)).transpose(1, 2) for chunk in manager.chunks], dim=2)
    rotary = yarn.model.language_model.rotary_emb
    cos, sin = rotary(torch.zeros(1), manager.positions[:, None])
    expected = keys * rotary.attention_scaling if mode == "unrotated" else apply_rotary_pos_emb(keys, keys, cos, sin)[1]
    torch.testing.assert_close(manager.cache.layers[0].keys, expected, rtol=0, atol=5e-5)
