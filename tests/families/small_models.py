"""A tiny model of random weights of every family: real architecture, no training, fp32 on the CPU."""

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kvlib.families import FAMILIES
from kvlib.model import Processor

TEXT = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=32768,
)  # fmt: skip
TOWER = dict(depth=3, num_heads=2)
SETTINGS = {  # patch size; vision; language; class of the configuration
    "qwen2_vl": (14, dict(embed_dim=32, mlp_ratio=2, hidden_size=64), {}, Qwen2VLConfig),
    "qwen2_5_vl": (
        14,
        dict(hidden_size=32, intermediate_size=64, window_size=112, fullatt_block_indexes=[1], out_hidden_size=64,
             tokens_per_second=2),
        {},
        Qwen2_5_VLConfig,
    ),
    "qwen3_vl": (
        16,
        dict(hidden_size=32, intermediate_size=64, out_hidden_size=64, num_position_embeddings=64, patch_size=16,
             deepstack_visual_indexes=[0, 2]),
        dict(head_dim=16),
        Qwen3VLConfig,
    ),
}  # fmt: skip


def tiny(model_type: str, tokenizer):
    """The model of a family, and its processor with this tokenizer."""
    patch, vision, text, kind = SETTINGS[model_type]
    ids = tokenizer.get_vocab()
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    known = dict(vocab_size=len(ids), bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"])
    config = kind(
        text_config=TEXT | text | known | {"pad_token_id": ids["<|endoftext|>"]} | {"rope_parameters": rope},
        vision_config=TOWER | vision,
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = FAMILIES[model_type].transformers_class(config).eval()
    for parameter in model.parameters():  # larger than the usual initialisation, so that attention is far from uniform
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
        else:
            torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.05)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    limits = (2 * 64 * 64, 16 * 32 * 32 * 50) if FAMILIES[model_type].stamped else (56 * 56, 28 * 28 * 50)
    size = {"shortest_edge": limits[0], "longest_edge": limits[1]}
    return model, Processor(tokenizer, Qwen2VLImageProcessorPil(size=size, patch_size=patch))
