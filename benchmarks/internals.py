"""All that the benchmarks use of the engine beside its public interface: a change inside the engine is followed here alone."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from kvlib import VideoStreamingInference, stream
from kvlib.cache import StreamCache
from kvlib.ops.attention import attend
from kvlib.ops.language import run
from kvlib.ops.positions import text_positions
from kvlib.ops.vision import VisionTower


def turn_tokens(engine: VideoStreamingInference, first: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [1, n] before and after the frames of a chunk. The `first` chunk of a stream begins with the system turn."""
    return engine._turn(first)


def question_tokens(engine: VideoStreamingInference, question: str) -> torch.Tensor:
    """Token ids [1, n] of a question's user turn and the beginning of the answer."""
    return engine._tokens(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


def logits_of_an_answer(engine: VideoStreamingInference, question: str, tokens: int) -> list[torch.Tensor]:
    """Logits [1, vocabulary] of the first `tokens` tokens of the greedy answer. Question and answer stay in the cache."""
    rows = [engine._step(question_tokens(engine, question))]
    advance = engine._step_by_graph() or engine._step
    while len(rows) < tokens:
        rows.append(advance(rows[-1].argmax(-1, keepdim=True)).clone())
    return rows


def stages_of(engine: VideoStreamingInference) -> dict[str, tuple[object, str]]:
    """The stages of a chunk, each with the object and the name of the attribute that runs it."""
    return {
        "prepare": (stream, "patchify"),
        "vision": (engine, "_vision"),
        "evict": (engine.cache_manager, "make_room"),
        "language": (engine, "_forward"),
    }


def fill_with_chunks(engine: VideoStreamingInference, chunk: int, tokens: int, states: Callable[[], Sequence]) -> None:
    """Append chunks of `chunk` tokens to a stream that holds its first chunk, until one more would exceed `tokens`.

    `states()` gives the keys and values [1, KV heads, chunk, head dim] of every layer. The chunks get the extent of the first
    one in positions.
    """
    manager = engine.cache_manager
    span = manager.chunks[0]
    for layer in manager.cache.layers:
        layer.rope = None  # random keys need no rotation
    while manager.get_seq_length() + chunk <= tokens:
        manager.make_room(chunk)
        for layer, new in zip(manager.cache.layers, states(), strict=True):
            layer.update(*new)
        start = manager.next_position
        positions = text_positions(chunk, start).clamp(max=start + span.stop - span.start - 1)
        manager.track_tokens(positions, start + span.stop - span.start)


def chunk_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The engine's attention of new tokens' queries [1, heads, n, head dim] over the past and themselves."""
    return attend(q, keys, values)


def capacity_of(engine: VideoStreamingInference) -> int:
    """The number of tokens for which the cache holds memory."""
    return engine.cache_manager.cache.layers[0].capacity


def vision_features(visual, patches: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Features [merged patches, hidden] of patches [t * h * w, 1176] of a `grid` (t, h, w), by the engine's vision tower."""
    return VisionTower(visual)(patches, grid)


def hidden_in_parts(language, embeddings: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """The engine's hidden states [1, n, hidden] of the last part, after the parts of `embeddings` [1, tokens, hidden] between
    successive `bounds` were appended one by one."""
    cache = StreamCache(len(language.layers), bounds[-1])
    for first, last in pairwise(bounds):
        hidden = run(language, cache.layers, embeddings[:, first:last], text_positions(last - first, first))
    return hidden
