"""What several test modules share: references that do not use the engine's code, and short ways to fill a stream."""

import hashlib
from contextlib import contextmanager
from dataclasses import fields

import torch
from transformers.cache_utils import Cache

from kvlib import KVCacheManager
from kvlib.ops.pixels import patchify
from kvlib.ops.positions import text_positions

QUESTION = "What?"
QUESTION_TURN = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
SHAPES_OF_SISTERS = {  # shapes of `benchmarks/shapes.py` -> what the READMEs call them
    "qwen2-2b": "Qwen2-VL 2B", "qwen2-7b": "Qwen2-VL 7B", "qwen3-2b": "Qwen3-VL 2B", "qwen3-4b": "Qwen3-VL 4B",
    "qwen3-8b": "Qwen3-VL 8B",
}  # fmt: skip
ROWS = 256  # queries of the fp64 reference computed at a time


def next_logits(engine) -> torch.Tensor:
    """Logits [vocabulary] of the first token that answers `QUESTION`."""
    return engine.question_logits(QUESTION)[0]


def processed(engine, frames, config=None, chunks: int = 20):
    """An engine that has processed `chunks` chunks of two frames, with seeds 0, 1, ..."""
    streamed = engine(config)
    for seed in range(chunks):
        streamed.append_video_chunk(frames(2, seed))
    return streamed


def fingerprint(engine) -> str:
    """What the stream is: the manager's own fingerprint, and a second one that shares no code with it. It leaves out where in
    the buffers the tokens lie, see `placement`."""
    state = engine.cache_manager.state
    left_out = ("buffers", "originals", "pending", "start", "stop", "capacity")
    record = {field.name: getattr(state, field.name) for field in fields(state) if field.name not in left_out}
    record["positions"] = state.positions.tolist()
    stored = [t for layer in engine.cache_manager.cache.layers for t in (layer.keys, layer.values) if t is not None]
    stored += [t for layer in engine.cache_manager.cache.layers for _, t in sorted(layer.originals.items())]
    contents = [hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest() for t in stored]
    return repr((engine.cache_manager.fingerprint(), record, contents))


def placement(engine) -> tuple:
    """Where the stored tokens lie and what memory they take."""
    state = engine.cache_manager.state
    pointers = [buffer.data_ptr() for buffer in state.buffers if buffer is not None]
    return pointers, state.start, state.stop, state.capacity, engine.get_cache_info()


def one_shot_logits(model, processor, chunks) -> torch.Tensor:
    """What transformers' whole model says to the same turns in one forward, with its own positions and masks: [vocabulary]."""
    patches, grids, text = [], [], "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for chunk in chunks:
        part, grid = patchify(chunk, processor.image_processor, "cpu")
        patches.append(part)
        grids.append(grid)
        pads = "<|video_pad|>" * (grid[0] * grid[1] * grid[2] // 4)
        text += f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|><|im_end|>\n"
    ids = processor.tokenizer(text + QUESTION_TURN, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model(
            input_ids=ids,
            mm_token_type_ids=(ids == model.config.video_token_id) * 2,
            pixel_values_videos=torch.cat(patches),
            video_grid_thw=torch.tensor(grids),
            second_per_grid_ts=torch.ones(len(chunks)),
        )
    model.model.rope_deltas = None
    return out.logits[0, -1]


def transformers_forward(language, layers, embeddings, positions, on_queries=None) -> torch.Tensor:
    """What `kvlib.ops.language.run` does, by transformers' own forward, which has no `on_queries`."""
    cache = Cache(layers=layers)
    return language(
        inputs_embeds=embeddings, position_ids=positions[:, None], past_key_values=cache, use_cache=True
    ).last_hidden_state


@contextmanager
def scripted(model, *rows):
    """While this lasts, the model's head gives logits that depend on nothing: those of `rows`, one after the other, the last
    one again and again. A row is {token id: logit}; all other tokens have -inf."""
    calls = []

    def replace(_module, _inputs, logits):
        row = rows[min(len(calls), len(rows) - 1)]
        calls.append(1)
        made = torch.full_like(logits, float("-inf"))
        for token, logit in row.items():
            made[..., token] = logit
        return made

    hook = model.lm_head.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def random_keys(tokens: int, seed: int = 0, heads: int = 2, size: int = 16) -> torch.Tensor:
    """[1, KV heads, tokens, head dim]"""
    return torch.randn(1, heads, tokens, size, generator=torch.Generator().manual_seed(seed))


def append_states(manager: KVCacheManager, *states: tuple[torch.Tensor, torch.Tensor]) -> dict:
    """Append a chunk of text tokens without a model: keys and values of each layer."""
    tokens = states[0][0].shape[2]
    manager.make_room(tokens)
    tail, start = manager.tail(), manager.next_position
    for layer, (keys, values) in zip(tail.layers, states, strict=True):
        layer.update(keys, values)
    return manager.track_tokens(tail, text_positions(tokens, start), start + tokens)


def attention_states(heads: int, kv_heads: int, new: int, past: int, size: int, device="cpu", dtype=torch.float32):
    """Random queries [1, heads, new, size] and keys and values [1, KV heads, past + new, size]."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = (heads, new), (kv_heads, past + new), (kv_heads, past + new)
    return [torch.randn(1, *shape, size, generator=generator, device=device, dtype=dtype) for shape in shapes]


def attention_in_fp64(q, keys, values) -> torch.Tensor:
    """Attention of the last tokens over all, written out."""
    past, group = keys.shape[2] - q.shape[2], q.shape[1] // keys.shape[1]
    mixed = torch.empty_like(q, dtype=torch.float64)
    for head in range(q.shape[1]):
        k, v = keys[0, head // group].double(), values[0, head // group].double()
        for first in range(0, q.shape[2], ROWS):
            rows = q[0, head, first : first + ROWS].double()
            scores = rows @ k.T / q.shape[-1] ** 0.5
            last = past + first + torch.arange(len(rows), device=q.device)
            scores.masked_fill_(torch.arange(len(k), device=q.device)[None] > last[:, None], float("-inf"))
            mixed[0, head, first : first + ROWS] = scores.softmax(-1) @ v
    return mixed


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()
