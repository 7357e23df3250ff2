"""The language model as the stream needs it: transformers' own weights and results, one layer after the other into the cache.

Nothing of a stream is stored on the model. On a CUDA device what lies between the attention of two layers, some twenty
launches, is recorded as one graph where the tokens are few; attention itself, over a cache whose bounds move, is not.
"""

from collections.abc import Callable, Iterator

import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib.ops.fused import add_and_norm, fused, norm, on_one_gpu, recorded, recording_stream

FEW = 1024  # tokens up to which a forward takes as long as its launches, not its work
LENGTHS = 8  # numbers of tokens for which recordings are kept
rotate = fused(apply_rotary_pos_emb)


class LanguageModel:
    """Runs `language`, the language model of a Qwen2.5-VL, for one engine."""

    def __init__(self, language):
        self.language, self.seen, self.recordings = language, set(), {}
        self.can_record = on_one_gpu(language)

    def __call__(
        self, layers, embeddings: torch.Tensor, positions: torch.Tensor, look: Callable[[torch.Tensor], None] | None = None
    ) -> torch.Tensor:
        """As `run`; from the second time on that so few tokens come in this number, by graphs."""
        tokens, returns = embeddings.shape[1], embeddings.shape[1] in self.seen
        self.seen.add(tokens)
        if not (returns and look is None and self.can_record and tokens <= FEW):
            return run(self.language, layers, embeddings, positions, look)
        tables = rotary_tables(self.language, embeddings, positions)
        recording = recorded(self.recordings, tokens, lambda: Recording(self.language, embeddings, *tables), LENGTHS)
        return recording(layers, embeddings, *tables)


class Recording:
    """What `run` does with so many tokens, the attention left out: a CUDA graph before the first layer's, between every two and
    after the last, which hand on what they make in tensors of their own."""

    def __init__(self, language, embeddings: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor):
        self.inputs = [part.clone() for part in (embeddings, cos, sin)]
        steps = layer_by_layer(language, *self.inputs)
        self.heads = [torch.empty_like(part) for part in next(steps)]
        self.mixed = torch.zeros_like(self.heads[0])
        for _ in language.layers:  # makes what a recording cannot: compiled kernels
            steps.send(self.mixed)
        self.graphs, pool, device = [], torch.cuda.graph_pool_handle(), embeddings.device
        steps = layer_by_layer(language, *self.inputs)
        for number in range(len(language.layers) + 1):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, stream=recording_stream(device)):
                made = steps.send(self.mixed if number else None)
                if number < len(language.layers):
                    put(self.heads, made)
            self.graphs.append(graph)
        self.states = made

    def __call__(self, layers, embeddings: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        put(self.inputs, (embeddings, cos, sin))
        first, *others = self.graphs
        first.replay()
        for stored, graph in zip(layers, others, strict=True):
            self.mixed.copy_(stored.attend(*self.heads))
            graph.replay()
        return self.states.clone()


def run(
    language, layers, embeddings: torch.Tensor, positions: torch.Tensor, look: Callable[[torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Append tokens to the cache's `layers`, one for each of the model's: embeddings [1, n, width] at positions int64 [3, n]
    -> states [1, n, width].

    `look` is shown the rotated queries [1, heads, n, head dim] of every layer, in order.
    """
    steps = layer_by_layer(language, embeddings, *rotary_tables(language, embeddings, positions))
    made = next(steps)
    for stored in layers:
        if look is not None:
            look(made[0])
        made = steps.send(stored.attend(*made))
    return made


def layer_by_layer(language, embeddings: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Iterator:
    """Yields the rotated queries and keys and the values of each layer, [1, heads, n, head dim], and is sent their attention;
    at last yields the states."""
    first, *others = (layer.input_layernorm for layer in language.layers)
    hidden = embeddings.to(first.weight.device)
    normed = norm(first, hidden)
    for layer, following in zip(language.layers, (*others, language.norm), strict=True):
        attention, device = layer.self_attn, layer.input_layernorm.weight.device
        hidden, normed, cos, sin = (part.to(device) for part in (hidden, normed, cos, sin))
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        q, k, v = (project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for project in projections)
        mixed = yield *rotate(q, k, cos, sin), v
        hidden, normed = add_and_norm(
            hidden, attention.o_proj(mixed.transpose(1, 2).flatten(2)), layer.post_attention_layernorm
        )
        hidden, normed = add_and_norm(hidden, layer.mlp(normed), following)
    yield normed


def rotary_tables(language, embeddings: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of M-RoPE at `positions`, for tokens like `embeddings`."""
    return language.rotary_emb(embeddings, positions[:, None].to(embeddings.device))


def put(targets, sources) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
