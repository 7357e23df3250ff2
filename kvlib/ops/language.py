"""The language model as the stream needs it: transformers' own weights and results, one layer after the other into the cache.

Embeddings have [parts, n, width]: the first part are the tokens, each further one is added behind the layer of its number
(DeepStack, arXiv:2406.04334); most models and all text have no further ones.

Nothing of a stream is stored on the model. On a CUDA device the twenty launches between the attention of two layers are
captured as one graph where the tokens are few; attention itself, over a cache whose bounds move, is not captured. Few tokens
are padded to a multiple of `BLOCK`, because chunks with dropped tokens have many lengths and would need a graph for each.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from kvlib.ops.fused import add_and_norm, device_of, fused, norm
from kvlib.ops.graphs import GraphPool, capture_graph, pool_bytes
from kvlib.ops.positions import rotary_tables

MAX_GRAPH_TOKENS = 1024  # up to which a forward takes as long as its launches, not its work
BLOCK = 64  # tokens
rotate = fused(apply_rotary_pos_emb)
OnQueries = Callable[[torch.Tensor, torch.Tensor], None]


class LanguageModel:
    """Runs `language`, the language model of a `kvlib.families.Family`; `graphs` None captures nothing."""

    def __init__(self, language, graphs: GraphPool | None):
        self.language, self.graphs = language, graphs

    def __call__(
        self, layers, embeddings: torch.Tensor, positions: torch.Tensor, on_queries: OnQueries | None = None
    ) -> torch.Tensor:
        """As `run`. Once about as many tokens come a second time, and they are few, by CUDA graphs."""
        if self.graphs is None or embeddings.shape[1] > MAX_GRAPH_TOKENS:
            return run(self.language, layers, embeddings, positions, on_queries)
        tokens = embeddings.shape[1]
        if tokens > 1:
            short = -tokens % BLOCK
            embeddings, positions = F.pad(embeddings, (0, 0, 0, short)), F.pad(positions, (0, short))
        key = "language", embeddings.shape, embeddings.dtype, self.language.norm.weight.data_ptr()
        if not self.graphs.seen(key):
            return run(self.language, layers, embeddings, positions, on_queries, tokens)
        tables = rotary_tables(self.language.rotary_emb, positions.to(embeddings.device), embeddings.dtype)
        graph = self.graphs.take(key, lambda: LayerGraphs(self.language, embeddings, *tables))
        states = graph(layers, embeddings, *tables, tokens, on_queries=on_queries)
        self.graphs.give(key, graph)
        return states


class LayerGraphs:
    """What `run` does with so many tokens, the attention left out: a CUDA graph before the first layer's, between every two and
    after the last. They hand on what they compute in tensors of their own."""

    def __init__(self, language, embeddings: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor):
        self.inputs = [part.clone() for part in (embeddings, cos, sin)]
        steps = layer_by_layer(language, *self.inputs)
        self.heads = [torch.empty_like(part) for part in next(steps)]
        self.mixed = torch.zeros_like(self.heads[0])
        for _ in language.layers:  # compiles the kernels, which a capture cannot
            steps.send(self.mixed)
        self.graphs, pool = [], torch.cuda.graph_pool_handle()
        steps = layer_by_layer(language, *self.inputs)

        def part(number: int):
            made = steps.send(self.mixed if number else None)
            if number < len(language.layers):
                put(self.heads, made)
            return made

        for number in range(len(language.layers) + 1):
            graph, self.states = capture_graph(lambda number=number: part(number), embeddings.device, pool)
            self.graphs.append(graph)
        self.nbytes = pool_bytes(pool) + sum(tensor.nbytes for tensor in (*self.inputs, *self.heads, self.mixed))

    def __call__(
        self,
        layers,
        embeddings: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        tokens: int,
        on_queries: OnQueries | None = None,
    ) -> torch.Tensor:
        """The states of the first `tokens` tokens, the only ones that are appended."""
        put(self.inputs, (embeddings, cos, sin))
        first, *others = self.graphs
        heads, mixed = [part[:, :, :tokens] for part in self.heads], self.mixed[:, :, :tokens]
        first.replay()
        for stored, graph in zip(layers, others, strict=True):
            mixed.copy_(stored.append_and_attend(*heads, on_queries))
            graph.replay()
        return self.states[:, :tokens].clone()


def run(
    language,
    layers,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    on_queries: OnQueries | None = None,
    tokens: int | None = None,
) -> torch.Tensor:
    """Append tokens to the cache's `layers`, one for each of the model's: embeddings [parts, n, width] at positions
    int64 [3, n] -> states [1, n, width].

    tokens: so many of the n are appended and have states; the others are padding. None: all.
    `on_queries` is called for every layer, in order, with its rotated queries [1, heads, n, head dim] and all the keys
    [1, KV heads, tokens, head dim] that they are compared with.
    """
    tables = rotary_tables(language.rotary_emb, positions.to(embeddings.device), embeddings.dtype)
    steps = layer_by_layer(language, embeddings, *tables)
    made, watched = next(steps), () if on_queries is None else (on_queries,)
    padding = 0 if tokens is None else embeddings.shape[1] - tokens
    for stored in layers:
        heads = [part[:, :, :tokens] for part in made]
        mixed = stored.append_and_attend(*heads, *watched)
        made = steps.send(F.pad(mixed, (0, 0, 0, padding)) if padding else mixed)
    return made[:, :tokens]


def layer_by_layer(language, embeddings: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Iterator:
    """Yields the rotated queries and keys and the values of each layer, [1, heads, n, head dim], and is sent their attention;
    at last yields the states."""
    first, *others = (layer.input_layernorm for layer in language.layers)
    hidden, further = embeddings[:1].to(device_of(first)), list(embeddings[1:])
    normed = norm(first, hidden)
    for layer, following in zip(language.layers, (*others, language.norm), strict=True):
        attention, device = layer.self_attn, device_of(layer.input_layernorm)
        hidden, normed, cos, sin = (part.to(device) for part in (hidden, normed, cos, sin))
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        q, k, v = (project(normed).unflatten(-1, (-1, attention.head_dim)) for project in projections)
        if hasattr(attention, "q_norm"):  # over each head
            q, k = norm(attention.q_norm, q), norm(attention.k_norm, k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = yield *rotate(q, k, cos, sin), v
        hidden, normed = add_and_norm(
            hidden, attention.o_proj(mixed.transpose(1, 2).flatten(2)), layer.post_attention_layernorm
        )
        more = layer.mlp(normed)
        if further:
            hidden, more = hidden + more, further.pop(0).to(device)
        hidden, normed = add_and_norm(hidden, more, following)
    yield normed


def put(targets, sources) -> None:
    """Copy each of the `sources` into its target."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
