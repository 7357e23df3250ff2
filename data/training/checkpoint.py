"""The reader as a checkpoint: its tokenizer, its untrained model, and loading and saving."""

import copy
import itertools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kvlib.lab.study import synthetic
from training.sizes import MERGE, PATCH

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


def build_tokenizer():
    """A byte-level BPE tokenizer trained on the prompts alone: prompts become few tokens, answers one token per byte."""
    prompts = [q.format(color=c) for asked in synthetic.QUESTIONS.values() for q in asked for c in synthetic.COLORS]
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


def build_model(tokenizer):
    """The model with random weights (seed 0), fp32 on the CPU."""

    def token(name: str) -> int:
        return tokenizer.convert_tokens_to_ids(f"<|{name}|>")

    config = Qwen2_5_VLConfig(
        text_config=dict(
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=-(-len(tokenizer) // 16) * 16,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            bos_token_id=token("endoftext"),
            eos_token_id=token("im_end"),
            rope_parameters={"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e4},
        ),
        vision_config=dict(
            depth=7,
            hidden_size=192,
            intermediate_size=512,
            num_heads=4,
            in_channels=3,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            window_size=112,
            fullatt_block_indexes=[1, 3, 5],
            out_hidden_size=256,
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


def continue_from(model, folder: Path) -> None:
    """Load the weights of the checkpoint in `folder` into `model`, which may differ in depth.

    Vision blocks that the checkpoint lacks become the identity. Where it has more language layers than the model, layers from
    its middle are left out, because removing those changes the output least.
    """
    source = type(model).from_pretrained(folder, dtype=torch.float32)
    stacks = ".blocks.", ".layers."
    rest = {name: value for name, value in source.state_dict().items() if not any(stack in name for stack in stacks)}
    model.load_state_dict(rest, strict=False)
    layers, theirs = model.model.language_model.layers, source.model.language_model.layers
    count = len(layers)
    for layer, other in zip(layers, [*theirs[: -(-count // 2)], *theirs[len(theirs) - count // 2 :]], strict=True):
        layer.load_state_dict(other.state_dict())
    for block, other in itertools.zip_longest(model.model.visual.blocks, source.model.visual.blocks):
        if other is not None:
            block.load_state_dict(other.state_dict())
        else:
            for output in (block.attn.proj, block.mlp.down_proj):
                nn.init.zeros_(output.weight)
                nn.init.zeros_(output.bias)


def image_processor():
    """Qwen2-VL's image settings, with a pixel limit that resizes 560 x 280 to 280 x 140: 50 tokens for two frames."""
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 285 * 145})


def save_checkpoint(model, tokenizer, folder: Path) -> None:
    """Write everything that `from_pretrained` needs, weights in bf16. The head shares the embedding's weights, stored once."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
