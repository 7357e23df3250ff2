"""Models with the shapes of published checkpoints and random weights, on which time and memory do not depend."""

import torch
from transformers import AutoConfig, PreTrainedModel

from kvlib import load_processor
from kvlib.families import FAMILIES
from kvlib.lab.report import paths
from kvlib.model import Processor

OLD = dict(depth=32, embed_dim=1280, mlp_ratio=4, num_heads=16)
WINDOWED = dict(
    depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, window_size=112, tokens_per_second=2,
    fullatt_block_indexes=[7, 15, 23, 31],
)  # fmt: skip
DEEP = dict(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=[5, 11, 17])
DEEPER = dict(depth=27, hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24])
# Name -> family; the language model's width, inner width, layers, heads and key heads; vision tower; vocabulary; tied or not.
SHAPES = {
    "3b": ("qwen2_5_vl", (2048, 11008, 36, 16, 2), WINDOWED, 151936, True),
    "7b": ("qwen2_5_vl", (3584, 18944, 28, 28, 4), WINDOWED, 152064, False),
    "qwen2-2b": ("qwen2_vl", (1536, 8960, 28, 12, 2), OLD, 151936, True),
    "qwen2-7b": ("qwen2_vl", (3584, 18944, 28, 28, 4), OLD, 152064, False),
    "qwen3-2b": ("qwen3_vl", (2048, 6144, 28, 16, 8), DEEP, 151936, True),
    "qwen3-4b": ("qwen3_vl", (2560, 9728, 36, 32, 8), DEEP, 151936, True),
    "qwen3-8b": ("qwen3_vl", (4096, 12288, 36, 32, 8), DEEPER, 151936, False),
}
NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
LIMITS = {"qwen3_vl": (128 * 32 * 32, 24576 * 32 * 32)}  # of a chunk's pixels; of a frame's for the others


def processor(shapes: str = "3b") -> Processor:
    """The embedded reader's tokenizer with the family's patches and pixel limits."""
    made = load_processor(paths.READER)
    low, high = LIMITS.get(SHAPES[shapes][0], (56 * 56, 28 * 28 * 16384))
    made.image_processor.size = {"shortest_edge": low, "longest_edge": high}
    made.image_processor.patch_size = config(shapes, made.tokenizer).vision_config.patch_size
    return made


def config(shapes: str, tokenizer):
    """The configuration of a model of the given shapes."""
    family, language, vision, vocabulary, tied = SHAPES[shapes]
    text, ids = dict(zip(NAMES, language, strict=True)), tokenizer.get_vocab()
    output = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
    vision = vision | {output: text["hidden_size"]}
    section, theta = [16, 24, 24], 1e6
    if family == "qwen3_vl":
        section, theta, text["head_dim"] = [24, 20, 20], 5e6, 128
        vision |= dict(num_heads=16, num_position_embeddings=2304, patch_size=16)
    rope = {"rope_type": "default", "mrope_section": section, "rope_theta": theta}
    more = dict(vocab_size=vocabulary, max_position_embeddings=128000, rms_norm_eps=1e-6, rope_parameters=rope)
    return AutoConfig.for_model(
        family,
        text_config=text | more,
        vision_config=vision,
        tie_word_embeddings=tied,
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def model(shapes: str, tokenizer, device) -> PreTrainedModel:
    """A model of the given shapes on `device`, with random bf16 weights (seed 0)."""
    made = config(shapes, tokenizer)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return FAMILIES[made.model_type].transformers_class(made).eval()
    finally:
        torch.set_default_dtype(torch.float32)
