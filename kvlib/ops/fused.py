"""Fewer launches where the device can: chains of elementwise steps as one kernel each, whole steps as one recorded graph."""

import shutil
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec

import torch
import torch.nn.functional as F

MANY = 2**20  # numbers
TENSOR_CORES = (8, 0)  # compute capability that the compiler supports well


@cache
def compiles(device: torch.device) -> bool:
    """Whether kernels can be made for `device`: a CUDA device of today, Triton, and the C compiler that Triton calls."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= TENSOR_CORES
        and find_spec("triton") is not None
        and any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    )


def fused(function: Callable) -> Callable:
    """`function` of tensors [..., tokens, numbers], compiled into one kernel where that is possible and pays, and as it is
    elsewhere. It pays for many numbers, and for one token, whose step is recorded; in between, the call of a compiled kernel
    takes longer than the launches that it saves.
    """
    compiled = cache(lambda: torch.compile(function))  # made when first needed: the compiler is slow to import

    @wraps(function)
    def call(first, *others):
        pays = first.numel() >= MANY or first.shape[-2] == 1
        return (compiled() if pays and compiles(first.device) else function)(first, *others)

    return call


def on_one_gpu(module) -> bool:
    """Whether all parameters of `module` lie on the same CUDA device."""
    devices = {parameter.device for parameter in module.parameters()}
    return len(devices) == 1 and next(iter(devices)).type == "cuda"


def recorded(recordings: dict, key, make: Callable[[], object], most: int):
    """The recording of `key`, from `make` where there is none yet; of more than `most` the oldest is forgotten."""
    if key not in recordings:
        if len(recordings) == most:
            del recordings[next(iter(recordings))]
        recordings[key] = make()
    return recordings[key]


def record(step: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], None], torch.Tensor]:
    """Record the launches of `step()` on a CUDA `device`: what does them all again, and the tensor that it then overwrites.

    `step` must read and write the same tensors every time and wait for nothing on the device; it is run once before.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        step()  # makes what a recording cannot: libraries' handles, compiled kernels
        with torch.cuda.graph(graph, stream=recording_stream(device)):
            result = step()
    return graph.replay, result


@cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Where everything is recorded: one stream for each CUDA device, because libraries keep a workspace for every stream."""
    return torch.cuda.Stream(device)


def norm(module, hidden: torch.Tensor) -> torch.Tensor:
    """What transformers' RMS norm `module` computes of `hidden` [..., width]."""
    return F.rms_norm(hidden, module.weight.shape, module.weight, module.variance_epsilon)


def add_and_norm(hidden: torch.Tensor, more: torch.Tensor, module) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of both [..., width], and what the RMS norm `module` computes of it."""
    return _add_and_norm(hidden, more, module.weight.to(hidden.device), module.variance_epsilon)


@fused
def _add_and_norm(hidden, more, weight, epsilon):
    hidden = hidden + more
    return hidden, F.rms_norm(hidden, weight.shape, weight, epsilon)
