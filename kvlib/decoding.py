"""One decoded token as one CUDA graph: at a full cache a step takes what reading weights and keys takes, not 600 launches."""

import torch

from kvlib.cache import StreamCache, StreamLayer
from kvlib.language import run

AMPERE = (8, 0)  # compute capability that flash attention needs


class Place:
    """Where the next token goes and what it sees, in tensors on the device: a recorded graph reads them and moves them on."""

    def __init__(self, device: torch.device):
        self.positions = torch.zeros(3, 1, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.keys_from = torch.zeros(2, dtype=torch.int32, device=device)
        self.keys_used = torch.zeros(1, dtype=torch.int32, device=device)
        self.query_from = torch.tensor([0, 1], dtype=torch.int32, device=device)

    def set(self, start: int, stop: int, position: int) -> None:
        """Tokens lie in [start, stop) of the buffers; the next goes behind them and stands at `position`."""
        self.positions.fill_(position)
        self.slot.fill_(stop)
        self.keys_from[0] = start
        self.keys_used.fill_(stop - start + 1)

    def move_on(self) -> None:
        for tensor in (self.positions, self.slot, self.keys_used):
            tensor.add_(1)


class GraphLayer:
    """A `StreamLayer` whose bounds are on the device; takes one token at a time."""

    def __init__(self, layer: StreamLayer, place: Place):
        self.keys, self.values, self.place = *layer.buffers(), place

    def attend(self, q: torch.Tensor, key_states: torch.Tensor, value_states: torch.Tensor) -> torch.Tensor:
        """As `StreamLayer.attend`, for one token. Flash attention reads each key once for all query heads that share it."""
        at = self.place
        self.keys.index_copy_(2, at.slot, key_states)
        self.values.index_copy_(2, at.slot, value_states)
        q, keys, values = (tensor[0].transpose(0, 1) for tensor in (q, self.keys, self.values))
        mixed, *_ = torch.ops.aten._flash_attention_forward(
            q, keys, values, at.query_from, at.keys_from, 1, len(keys), 0.0, False, False, seqused_k=at.keys_used
        )
        return mixed.transpose(0, 1)[None]


class TokenGraph:
    """The step from one token to the logits of the next, recorded for one model and the buffers of one cache.

    Tokens are written behind the stream, where the cache must have room for them (`StreamCache.reserve`), and are not counted
    in it: they are forgotten when the next are written.
    """

    def __init__(self, model, cache: StreamCache):
        device = model.lm_head.weight.device
        self.model, self.cache, self.recorded_for = model, cache, buffers_of(cache)
        self.place = Place(device)
        self.layers = [GraphLayer(layer, self.place) for layer in cache.layers]
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.begin(0)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            self._step()  # makes what a recording cannot: libraries' handles, compiled kernels
            with torch.cuda.graph(self.graph):
                self.logits = self._step()

    def begin(self, position: int) -> None:
        """The next token goes behind what the cache holds now, and stands at `position`."""
        layer = self.cache.layers[0]
        self.place.set(layer.start, layer.stop, position)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits [1, vocabulary] behind `token` [1, 1]; overwritten by the next call."""
        self.token.copy_(token)
        self.graph.replay()
        return self.logits

    def _step(self) -> torch.Tensor:
        embeddings = self.model.get_input_embeddings()(self.token)
        hidden = run(self.model.model.language_model, self.layers, embeddings, self.place.positions)
        self.place.move_on()
        return self.model.lm_head(hidden[:, -1])


def buffers_of(cache: StreamCache) -> list[int]:
    """What a recording refers to: the addresses of the cache's buffers."""
    return [buffer.data_ptr() for layer in cache.layers for buffer in layer.buffers()]


def can_record(model, cache: StreamCache) -> bool:
    """Whether a step of `model` over `cache` can be one graph: all of it on one CUDA device with flash attention, in half
    precision, keys stored rotated and as the model computes them."""
    weight = model.lm_head.weight
    return (
        weight.is_cuda
        and torch.cuda.get_device_capability(weight.device) >= AMPERE
        and weight.dtype in (torch.bfloat16, torch.float16)
        and {parameter.device for parameter in model.model.language_model.parameters()} == {weight.device}
        and all(layer.is_initialized and layer.rope is None and layer.stored_dtype is None for layer in cache.layers)
    )
