"""From logits to tokens: greedy decoding and sampling."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn: up to `max_new_tokens` tokens from softmax(logits / temperature); temperature 0 takes the
    likeliest.

    began: `time.perf_counter()` when the question came. seed: None = drawn from torch's generator on the CPU. device: of the
    logits. Raises ValueError for values that cannot be used.
    """

    began: float
    max_new_tokens: int
    temperature: float
    seed: int | None
    device: torch.device

    def __post_init__(self):
        if isinstance(self.max_new_tokens, bool) or not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens!r}: give a whole number of at least 1")

    def generator(self) -> torch.Generator:
        """A generator of this answer's own: a CUDA device's common one cannot be used while another thread captures a graph."""
        seed = int(torch.randint(2**62, ())) if self.seed is None else self.seed
        return torch.Generator(self.device).manual_seed(seed)


def generate(
    logits: torch.Tensor, advance: Callable[[torch.Tensor], torch.Tensor], stops: set[int], sampling: Sampling
) -> tuple[list[int], dict]:
    """The tokens of an answer and its metrics: `ttft` (s, question to first token), `decode_tokens_per_s`, `new_tokens`.

    logits [1, vocabulary] are those of the first token; `advance(token [1, 1])` gives the next ones. Ends before one of
    `stops`.
    """
    generator, new, steps = sampling.generator(), [], 0
    while True:
        step = pick(logits, sampling.temperature, generator)
        token = int(step)
        if not new:
            first = time.perf_counter()
        if token in stops:
            break
        new.append(token)
        if len(new) == sampling.max_new_tokens:
            break
        logits, steps = advance(step), steps + 1
    decoding = time.perf_counter() - first
    rate = steps / decoding if steps else float("nan")
    return new, {"ttft": first - sampling.began, "decode_tokens_per_s": rate, "new_tokens": len(new)}


def pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Next token [1, 1] of logits [1, vocabulary]; temperature 0 takes the likeliest."""
    if temperature == 0.0:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)


def stop_tokens(model, tokenizer) -> set[int]:
    """The tokens that end an answer: those of the checkpoint's generation_config and of the tokenizer."""
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return {token for token in (*stops, tokenizer.eos_token_id) if token is not None}
