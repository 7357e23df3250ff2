"""All that the benchmarks use of the engine beside its public interface: a change inside the engine is followed here alone."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from kvlib import KVCacheManager, VideoStreamingInference, encoding, prompts
from kvlib.families import family_of
from kvlib.ops import attention
from kvlib.ops.language import run
from kvlib.ops.positions import text_positions


def chunk_input(engine: VideoStreamingInference, frames: torch.Tensor, fps: float, last: float, first: bool, start: int):
    """What transformers' model takes for a chunk of uint8 frames [T, H, W, 3] whose last one is shown at `last` seconds: ids
    [1, n], patches, grid (t, h, w), positions int64 [3, n] from `start` on; and the position after them. The `first` chunk of a
    stream begins with the system turn."""
    model, settings, family = engine.model, engine.processor.image_processor, family_of(engine.model.config)
    patches, grid = encoding.patchify(frames, settings, engine.device, family.resize)
    times = encoding.grid_times(len(frames), fps, last, grid[0]) if family.stamped else ()
    texts = prompts.chunk_texts(engine.processor.tokenizer, first, times)
    merged = grid[0], grid[1] // settings.merge_size, grid[2] // settings.merge_size
    pads = [model.config.video_token_id] * (merged[1] * merged[2] * (1 if family.stamped else merged[0]))
    ids = [token for part in encoding.alternate(texts, [pads] * (len(texts) - 1)) for token in part]
    step = family.time_step(model.config, settings.temporal_patch_size / fps)
    empty = torch.empty(1, 0, 0)
    placed = encoding.ChunkTokens(empty, tuple(map(len, texts)), torch.ones(merged, dtype=torch.bool), step, family.stamped)
    positions, following = placed.positions(start)
    return torch.tensor([ids], device=model.get_input_embeddings().weight.device), patches, grid, positions, following


def question_tokens(engine: VideoStreamingInference, question: str) -> torch.Tensor:
    """Token ids [1, n] of a question's user turn and the beginning of the answer."""
    return torch.tensor([prompts.question_tokens(engine.processor.tokenizer, question)], device=engine.model.device)


def logits_of_an_answer(engine: VideoStreamingInference, question: str, tokens: int) -> list[torch.Tensor]:
    """Logits [1, vocabulary] of the first `tokens` tokens of the greedy answer. The stream stays as it is."""
    prompt, manager = question_tokens(engine, question), engine.cache_manager
    tail = manager.tail()
    manager.cache.reserve(prompt.shape[1] + tokens, tail)
    rows = [engine._step(prompt, tail)]
    advance = engine._decoder(tail)
    while len(rows) < tokens:
        rows.append(advance(rows[-1].argmax(-1, keepdim=True)).clone())
    return rows


def stages_of(engine: VideoStreamingInference) -> dict[str, tuple[object, str]]:
    """The stages of a chunk, each with the object and the name of the attribute that runs it."""
    return {
        "prepare": (encoding, "patchify"),
        "vision": (engine.backbone, "vision"),
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
    while manager.get_seq_length() + chunk <= tokens:
        manager.make_room(chunk)
        tail = manager.tail()
        for layer, new in zip(tail.layers, states(), strict=True):
            layer.update(*new)
        start = manager.next_position
        positions = text_positions(chunk, start).clamp(max=start + span.stop - span.start - 1)
        manager.track_tokens(tail, positions, start + span.stop - span.start)


def chunk_attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The engine's attention of new tokens' queries [1, heads, n, head dim] over the past and themselves."""
    return attention.chunk_attention(q, keys, values)


def capacity_of(engine: VideoStreamingInference) -> int:
    """The number of tokens for which the cache holds memory."""
    return engine.cache_manager.state.room()


def vision_features(model, patches: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Features [merged patches, hidden] of the patches of a `grid` (t, h, w), by the engine's vision tower."""
    return family_of(model.config).tower(model.model.visual, None)(patches, grid)[0]


def hidden_in_parts(language, embeddings: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """The engine's hidden states [1, n, hidden] of the last part, after the parts of `embeddings` [1, tokens, hidden] between
    successive `bounds` were appended one by one."""
    manager = KVCacheManager(len(language.layers))
    manager.cache.reserve(bounds[-1])
    tail = manager.tail()
    for first, last in pairwise(bounds):
        hidden = run(language, tail.layers, embeddings[:, first:last], text_positions(last - first, first))
        tail.advance(last - first, last)
    return hidden
