"""A tiny Qwen2.5-VL of random weights with its own byte tokenizer: real architecture, no training, fp32 on the CPU."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kvlib import VideoStreamingInference
from kvlib.lab.study import runs
from kvlib.model import Processor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """Streams are processed in the process of the test: the tests' streams take less time than starting other processes."""
    monkeypatch.setattr(runs, "CORES", 1)


@pytest.fixture(scope="session")
def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def processor(tokenizer):
    return Processor(tokenizer, Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 50))


@pytest.fixture(scope="session")
def model(processor):
    torch.manual_seed(0)
    ids = processor.tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config=dict(
            hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=len(ids), max_position_embeddings=32768, bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"],
            rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        ),
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=64, num_heads=2, window_size=112, fullatt_block_indexes=[1],
            out_hidden_size=64, tokens_per_second=2,
        ),
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=True,
    )  # fmt: skip
    made = Qwen2_5_VLForConditionalGeneration(config).eval()
    for parameter in made.parameters():  # larger than the usual initialisation, so that attention is far from uniform
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    made.generation_config.eos_token_id = ids["<|im_end|>"]
    return made


@pytest.fixture
def engine(model, processor):
    """Makes an engine: `engine(eviction_config=None)`."""
    return lambda config=None: VideoStreamingInference(model, processor, "cpu", eviction_config=config)


@pytest.fixture
def frames():
    """Makes random frames: `frames(count, seed, height, width)` -> uint8 [T, H, W, 3]."""

    def make(count: int = 2, seed: int = 0, height: int = 56, width: int = 84) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randint(0, 256, (count, 3, height // 14, width // 14), generator=generator).float()
        return torch.nn.functional.interpolate(coarse, (height, width)).permute(0, 2, 3, 1).to(torch.uint8)

    return make


@pytest.fixture
def partly_static(frames):
    """Makes frames of which two thirds stand still from grid to grid: `partly_static(count, seed)` -> uint8 [T, 56, 84, 3]. The
    size is that of 2 x 3 merged patches, so that nothing is resized."""

    def make(count: int = 8, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        grids = [frames(1, seed).expand(2, -1, -1, -1)]
        while 2 * len(grids) < count:
            moved = torch.rand(2, 3, generator=generator) < 1 / 3
            pixels = moved.repeat_interleave(28, 0).repeat_interleave(28, 1)[None, :, :, None]
            grids.append(torch.where(pixels, frames(1, int(torch.randint(2**31, (1,), generator=generator))), grids[-1]))
        return torch.cat(grids)[:count]

    return make
