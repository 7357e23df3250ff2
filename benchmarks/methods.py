"""The methods that are compared: a plain transformers loop, and this library in one of its position modes.

Every method has the same interface: `fill(tokens)` fills its cache with random keys and values, `append(frames)` processes a
chunk, `ask()` answers a question and returns its metrics, `stages(clock)` are context managers that time the stages of a chunk,
and `after_chunk(tokens)` brings the cache back to its length.
"""

import time

import internals
import torch
from clock import Clock
from transformers import DynamicCache

from kvlib import EvictionConfig, VideoStreamingInference, encoding
from kvlib.lab.video.calibration import head_size
from kvlib.ops.positions import text_positions

FPS = 2.0  # frames per second at which the frames of a chunk count as sampled
QUESTION = "Which of the words on the screen have been there from the first frame on?"  # about 30 tokens with its turn
NEW_TOKENS = 17


class PlainLoop:
    """The loop that one writes by hand: the whole model on every chunk, a cache that grows by concatenation, all logits."""

    def __init__(self, model, processor, device):
        self.model, self.processor, self.device = model, processor, device
        self.cache, self.next_position = DynamicCache(), 0
        self.time: float | None = None  # of the last frame, in seconds
        self.helper = VideoStreamingInference(model, processor, device)  # for the turns' tokens

    def fill(self, tokens: int) -> None:
        for index, states in enumerate(random_states(self.model, tokens)):
            self.cache.update(*states, index)
        self.next_position = tokens

    def append(self, frames, first: bool = False) -> None:
        self.time = encoding.next_time(self.time, len(frames), FPS)
        ids, patches, grid, positions, self.next_position = internals.chunk_input(
            self.helper, frames, FPS, self.time, first, self.next_position
        )
        self.model(
            input_ids=ids,
            pixel_values_videos=patches.to(self.model.dtype),
            video_grid_thw=torch.tensor([grid], device=ids.device),
            position_ids=positions[:, None].to(ids.device),
            past_key_values=self.cache,
            use_cache=True,
        )

    def ask(self) -> dict:
        began, length = time.perf_counter(), self.cache.get_seq_length()
        step = internals.question_tokens(self.helper, QUESTION)
        prompt, position = step.shape[1], self.next_position
        for count in range(NEW_TOKENS):
            positions = text_positions(step.shape[1], position)[:, None].to(step.device)
            position += step.shape[1]
            out = self.model(input_ids=step, position_ids=positions, past_key_values=self.cache, use_cache=True)
            step = out.logits[:, -1].argmax(-1, keepdim=True)
            step.item()
            if not count:
                first = time.perf_counter()
        rate = (NEW_TOKENS - 1) / (time.perf_counter() - first)
        self.cache.crop(length - self.cache.get_seq_length())
        return {"ttft": first - began, "decode_tokens_per_s": rate, "prompt_tokens": prompt}

    def stages(self, clock: Clock) -> list:
        return [
            clock.watching(encoding, "patchify", "prepare"),
            clock.watching(self.model.model.visual, "forward", "vision"),
            clock.watching(self.model.model.language_model, "forward", "language"),
        ]

    def after_chunk(self, tokens: int) -> None:
        self.cache.crop(tokens - self.cache.get_seq_length())


class Streaming:
    """This library in one position mode, with a budget at which every chunk evicts one."""

    def __init__(self, model, processor, device, tokens: int, frames, mode: str, kv_dtype=None):
        probe = VideoStreamingInference(model, processor, device)
        self.chunk = probe.count_tokens(frames)
        budget = max(tokens, probe.count_tokens(frames, first=True)) + self.chunk
        self.engine = VideoStreamingInference(model, processor, device, EvictionConfig(budget, position_mode=mode), kv_dtype)
        self.frames = frames

    def fill(self, tokens: int) -> None:
        self.engine.append_video_chunk(self.frames, FPS)
        internals.fill_with_chunks(self.engine, self.chunk, tokens, lambda: random_states(self.engine.model, self.chunk))

    def append(self, frames) -> None:
        self.engine.append_video_chunk(frames, FPS)

    def ask(self) -> dict:
        return self.engine.ask(QUESTION, max_new_tokens=NEW_TOKENS, do_sample=False)[1]

    def stages(self, clock: Clock) -> list:
        return [clock.watching(*where, name) for name, where in internals.stages_of(self.engine).items()]

    def after_chunk(self, tokens: int) -> None:
        pass  # the next chunk evicts


def random_states(model, tokens: int):
    """Random keys and values [1, KV heads, tokens, head dim] for every layer of the language model."""
    config = model.config.text_config
    shape = 1, config.num_key_value_heads, tokens, head_size(config)
    for _ in range(config.num_hidden_layers):
        yield tuple(torch.randn(shape, device=model.device, dtype=model.dtype) for _ in range(2))


def random_frames(size: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Random frames uint8 [T, H, W, 3] of `size` (T, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
