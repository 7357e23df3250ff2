"""One decoded token as one CUDA graph: a step takes what reading weights and keys takes, and not hundreds of launches."""

from collections.abc import Callable

import torch

from kvlib.cache import EIGHT_BIT, StreamCache, StreamLayer, fitting
from kvlib.ops.fused import compiles, on_one_gpu, record
from kvlib.ops.language import run

ADA = (8, 9)  # compute capability that knows 8-bit numbers
HEAD_DIMS = (16, 32, 64, 128, 256)  # that the kernel takes


class Place:
    """Where the next token goes and what it sees, in tensors on the device: a recorded graph reads them and moves them on."""

    def __init__(self, device: torch.device):
        self.positions = torch.zeros(3, 1, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.keys_from = torch.zeros(1, dtype=torch.int32, device=device)
        self.keys_used = torch.zeros(1, dtype=torch.int32, device=device)

    def set(self, start: int, stop: int, position: int) -> None:
        """Tokens lie in [start, stop) of the buffers; the next goes behind them and stands at `position`."""
        self.positions.fill_(position)
        self.slot.fill_(stop)
        self.keys_from.fill_(start)
        self.keys_used.fill_(stop - start + 1)

    def move_on(self) -> None:
        for tensor in (self.positions, self.slot, self.keys_used):
            tensor.add_(1)


class GraphLayer:
    """A `StreamLayer` whose bounds are on the device; takes one token at a time."""

    def __init__(self, layer: StreamLayer, place: Place, kernel: Callable):
        self.keys, self.values = layer.buffers()
        self.place, self.kernel = place, kernel

    def attend(self, q: torch.Tensor, key_states: torch.Tensor, value_states: torch.Tensor) -> torch.Tensor:
        """As `StreamLayer.attend`, for one token."""
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            new = fitting(states, buffer.dtype)
            if buffer.dtype == EIGHT_BIT:  # which cannot be copied by index
                buffer, new = buffer.view(torch.uint8), new.view(torch.uint8)
            buffer.index_copy_(2, self.place.slot, new)
        return self.kernel(q, self.keys, self.values, self.place.keys_from, self.place.keys_used)


class TokenGraph:
    """The step from one token to the logits of the next, recorded for one model and the buffers of one cache.

    Tokens are written behind the stream, where the cache must have room for them (`StreamCache.reserve`), and are not counted
    in it: they are forgotten when the next are written.
    """

    def __init__(self, model, cache: StreamCache):
        from kvlib.ops.kernels import OneToken  # not everywhere is there a Triton to import

        device = model.lm_head.weight.device
        self.model, self.cache, self.recorded_for = model, cache, buffers_of(cache)
        self.place = Place(device)
        text = model.config.text_config
        kernel = OneToken(text.num_attention_heads, *cache.layers[0].keys.shape[1::2], device)
        self.layers = [GraphLayer(layer, self.place, kernel) for layer in cache.layers]
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.begin(0)
        self.replay, self.logits = record(self._step, device)

    def begin(self, position: int) -> None:
        """The next token goes behind what the cache holds now, and stands at `position`."""
        layer = self.cache.layers[0]
        self.place.set(layer.start, layer.stop, position)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits [1, vocabulary] behind `token` [1, 1]; overwritten by the next call."""
        self.token.copy_(token)
        self.replay()
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
    """Whether a step of `model` over `cache` can be one graph: all of it on one CUDA device for which kernels can be made, in
    half precision, with keys stored rotated."""
    weight, layer = model.lm_head.weight, cache.layers[0]
    return (
        compiles(weight.device)
        and weight.dtype in (torch.bfloat16, torch.float16)
        and on_one_gpu(model.model.language_model)
        and model.model.language_model.norm.weight.device == weight.device
        and layer.rope is None
        and layer.keys.shape[-1] in HEAD_DIMS
        and (layer.keys.dtype != EIGHT_BIT or torch.cuda.get_device_capability(weight.device) >= ADA)
    )
