"""Models with the shapes of the published Qwen2.5-VL checkpoints and random weights, on which time and memory do not depend."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from kvlib import load_processor
from kvlib.lab.report import paths
from kvlib.model import Processor

SHAPES = {  # from the published config.json files
    "3b": dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2),
    "7b": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4),
}


def processor() -> Processor:
    """The embedded reader's tokenizer with Qwen's own pixel limits."""
    made = load_processor(paths.READER)
    made.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return made


def model(shapes: str, tokenizer, device) -> Qwen2_5_VLForConditionalGeneration:
    """A model of the given shapes on `device`, with random bf16 weights (seed 0)."""
    text, ids = SHAPES[shapes], tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config=dict(
            **text,
            vocab_size=151936 if shapes == "3b" else 152064,
            max_position_embeddings=128000,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        ),
        vision_config=dict(
            depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, window_size=112, tokens_per_second=2,
            fullatt_block_indexes=[7, 15, 23, 31], out_hidden_size=text["hidden_size"],
        ),
        tie_word_embeddings=shapes == "3b",
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
