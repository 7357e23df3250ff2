"""One decoded token as one CUDA graph: a step takes the time of reading weights and keys, without that of hundreds of
launches."""

from collections.abc import Callable

import torch

from kvlib.ops.fused import compiles, is_on_one_gpu, is_plain
from kvlib.ops.graphs import capture_graph, pool_bytes
from kvlib.ops.language import run
from kvlib.ops.storage import EIGHT_BIT, saturating_cast

ADA = (8, 9)  # compute capability that knows 8-bit numbers
HEAD_DIMS = (16, 32, 64, 128, 256)  # that the kernel takes


class DecodePointers:
    """Where the next token goes and what it sees, in tensors on the device: a captured graph reads them and moves them on."""

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
        """The same for the token after the next."""
        for tensor in (self.positions, self.slot, self.keys_used):
            tensor.add_(1)


class GraphLayer:
    """One layer's buffer [2, 1, KV heads, capacity, head dim], whose bounds are on the device; takes one token at a time."""

    def __init__(self, buffer: torch.Tensor, pointers: DecodePointers, kernel: Callable):
        self.keys, self.values = buffer
        self.pointers, self.kernel = pointers, kernel

    def append_and_attend(self, q: torch.Tensor, key_states: torch.Tensor, value_states: torch.Tensor) -> torch.Tensor:
        """As `StreamLayer.append_and_attend`, for one token."""
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            new = saturating_cast(states, buffer.dtype)
            if buffer.dtype == EIGHT_BIT:  # which cannot be copied by index
                buffer, new = buffer.view(torch.uint8), new.view(torch.uint8)
            buffer.index_copy_(2, self.pointers.slot, new)
        return self.kernel(q, self.keys, self.values, self.pointers.keys_from, self.pointers.keys_used)


class TokenGraph:
    """The step from one token to the logits of the next, captured for one model and the buffers of one cache."""

    def __init__(self, model, buffers, start: int, stop: int):
        """`buffers` of all layers hold tokens in [start, stop); there must be room for one more behind them, which is
        overwritten."""
        from kvlib.ops.kernels import OneToken  # not everywhere is there a Triton to import

        device = model.lm_head.weight.device
        self.model, self.captured_for = model, addresses(buffers)
        self.pointers = DecodePointers(device)
        kernel = OneToken(model.config.text_config.num_attention_heads, *buffers[0].shape[2::2], device)
        self.layers = [GraphLayer(buffer, self.pointers, kernel) for buffer in buffers]
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.pointers.set(start, stop, 0)
        self._step()  # compiles the kernels, which a capture cannot
        self.pointers.set(start, stop, 0)
        self.graph, self.logits = capture_graph(self._step, device)
        self.nbytes = pool_bytes(self.graph.pool())

    def begin(self, start: int, stop: int, position: int) -> None:
        """The next token goes behind those in [start, stop) of the buffers, and stands at `position`."""
        self.pointers.set(start, stop, position)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits [1, vocabulary] behind `token` [1, 1]; overwritten by the next call."""
        self.token.copy_(token)
        self.graph.replay()
        return self.logits

    def _step(self) -> torch.Tensor:
        embeddings = self.model.get_input_embeddings()(self.token)
        hidden = run(self.model.model.language_model, self.layers, embeddings, self.pointers.positions)
        self.pointers.move_on()
        return self.model.lm_head(hidden[:, -1])


def addresses(buffers) -> list[tuple[int, torch.Size]]:
    """What a graph refers to: where each of the `buffers` lies, and its shape, from which the distance of its heads follows.
    Memory
    that was freed may come back at the same address as a buffer of another capacity."""
    return [(buffer.data_ptr(), buffer.shape) for buffer in buffers]


def can_capture(model, buffer: torch.Tensor) -> bool:
    """Whether a step of `model` over layers such as `buffer` can be one graph: all of it on one CUDA device for which kernels
    can
    be compiled, in half precision, with plain layers."""
    weight = next(model.lm_head.parameters())
    return (
        compiles(weight.device)
        and weight.dtype in (torch.bfloat16, torch.float16)
        and is_plain(model.lm_head)
        and is_on_one_gpu(model.model.language_model)
        and model.model.language_model.norm.weight.device == weight.device
        and buffer.shape[-1] in HEAD_DIMS
        and (buffer.dtype != EIGHT_BIT or torch.cuda.get_device_capability(weight.device) >= ADA)
    )
