"""The reader as a checkpoint: its tokenizer, its untrained model, and loading and saving."""

import copy
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kvlib.lab.study import synthetic
from training.settings import MERGE, PATCH

SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
CHAT_TEMPLATE = """\
{%- if not messages or messages[0]['role'] != 'system' -%}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


# Sizes of the model, about as many parameters as the name says, "tiny" aside. A head of the language model has 64 numbers.
SIZES = {
    "11M": dict(
        text=dict(hidden_size=256, intermediate_size=704, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2),
        vision=dict(depth=7, hidden_size=256, intermediate_size=688, num_heads=4, fullatt_block_indexes=[1, 3, 5]),
    ),
    "8M": dict(
        text=dict(hidden_size=256, intermediate_size=704, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2),
        vision=dict(depth=7, hidden_size=192, intermediate_size=512, num_heads=4, fullatt_block_indexes=[1, 3, 5]),
    ),
    "2M": dict(
        text=dict(hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1),
        vision=dict(depth=5, hidden_size=96, intermediate_size=256, num_heads=2, fullatt_block_indexes=[1, 3]),
    ),
    "tiny": dict(
        text=dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1),
        vision=dict(depth=2, hidden_size=64, intermediate_size=128, num_heads=2, fullatt_block_indexes=[1]),
    ),
}


def build_tokenizer():
    """A byte-level BPE tokenizer trained on the prompts alone: prompts become few tokens, answers one token per byte."""
    prompts = [q.format(color=c) for asked in synthetic.QUESTIONS.values() for q in asked for c in synthetic.COLORS]
    prompts += [synthetic.PAST_QUESTION.format(ago=ago) for ago in range(2, synthetic.MAX_AGO + 1)]
    prompts += ["system\nuser\nassistant\nYou are a helpful assistant.\n"] * 8
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(prompts, trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:],
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer, size: str):
    """The model of a size of `SIZES` with random weights (seed 0), fp32 on the CPU."""

    def token(name: str) -> int:
        return tokenizer.convert_tokens_to_ids(f"<|{name}|>")

    config = Qwen2_5_VLConfig(
        text_config=dict(
            **SIZES[size]["text"],
            vocab_size=-(-len(tokenizer) // 16) * 16,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            bos_token_id=token("endoftext"),
            eos_token_id=token("im_end"),
            rope_parameters={"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e4},
        ),
        vision_config=dict(
            **SIZES[size]["vision"],
            in_channels=3,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            window_size=112,
            out_hidden_size=SIZES[size]["text"]["hidden_size"],
            tokens_per_second=2,
        ),
        tie_word_embeddings=True,
        video_token_id=token("video_pad"),
        image_token_id=token("image_pad"),
        vision_start_token_id=token("vision_start"),
        vision_end_token_id=token("vision_end"),
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=token("endoftext"), eos_token_id=[token("im_end"), token("endoftext")], pad_token_id=token("endoftext")
    )
    return model


def image_processor():
    """Qwen2-VL's image settings, with a pixel limit that resizes 560 x 280 to 280 x 140: 50 tokens for two frames."""
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 285 * 145})


def save_checkpoint(model, tokenizer, folder: Path) -> None:
    """Write everything that `from_pretrained` needs, weights in bf16. The head shares the embedding's weights, stored once. The
    weights are replaced last and at once, so a checkpoint that was there before stays whole if this is interrupted."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as saving:
        copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(saving)
        tokenizer.save_pretrained(saving)
        image_processor().save_pretrained(saving)
        for path in sorted(Path(saving).iterdir(), key=lambda path: path.suffix == ".safetensors"):
            path.replace(folder / path.name)
