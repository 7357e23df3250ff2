"""Chains of elementwise operations compiled into one kernel each, where the device can and where it pays."""

import shutil
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn

MIN_FUSED_NUMEL = 2**20  # numbers from which on the call of a compiled kernel takes less than the launches that it saves
TENSOR_CORES = (8, 0)  # compute capability that the compiler supports well
OWN_WEIGHTS = ("torch.nn.", "transformers.")  # packages whose layers compute what their weights say


@cache
def compiles(device: torch.device) -> bool:
    """Whether kernels can be made for `device`: a CUDA device of compute capability 8 or more, Triton, and the C compiler that
    Triton calls."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= TENSOR_CORES
        and find_spec("triton") is not None
        and any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    )


def fused(function: Callable) -> Callable:
    """`function` of tensors [..., tokens, numbers], compiled into one kernel for large tensors and for a single token, whose
    step
    is captured as a CUDA graph; as it is for others and where nothing can be compiled."""
    compiled = cache(lambda: torch.compile(function))  # made when first needed: the compiler is slow to import

    @wraps(function)
    def call(first, *others):
        pays = first.numel() >= MIN_FUSED_NUMEL or first.shape[-2] == 1
        return (compiled() if pays and compiles(first.device) else function)(first, *others)

    return call


def is_plain(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether `module` is a `kind` whose weights may be read instead of calling it: no adapter around it, no quantized layer,
    no
    hook that fetches its weights first."""
    return type(module) is kind and not hasattr(module, "_hf_hook")


def is_on_one_gpu(module: nn.Module) -> bool:
    """Whether all parameters of `module` lie on the same CUDA device and all its layers are plain."""
    devices = {parameter.device for parameter in module.parameters()}
    plain = all(type(part).__module__.startswith(OWN_WEIGHTS) and not hasattr(part, "_hf_hook") for part in module.modules())
    return plain and len(devices) == 1 and next(iter(devices)).type == "cuda"


def device_of(module: nn.Module) -> torch.device:
    """Where `module` computes: the device to which a hook brings its inputs, else that of its first parameter."""
    hooked = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if hooked is None else torch.device(hooked)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether `module` is transformers' RMS norm of one of the families, whose weight may be read instead of calling it."""
    kind = type(module)
    own = kind.__module__.startswith("transformers.") and kind.__name__.endswith("RMSNorm")
    return own and hasattr(module, "variance_epsilon") and not hasattr(module, "_hf_hook")


def norm(module: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What the RMS or layer norm `module` computes of `hidden` [..., width]."""
    if not is_rms_norm(module):
        return module(hidden)
    return F.rms_norm(hidden, module.weight.shape, module.weight, module.variance_epsilon)


def add_and_norm(hidden: torch.Tensor, more: torch.Tensor, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of both [..., width], and what the RMS or layer norm `module` computes of it."""
    if is_rms_norm(module):
        return _add_and_rms_norm(hidden, more, module.weight.to(hidden.device), module.variance_epsilon)
    if is_plain(module, nn.LayerNorm):
        weights = module.weight.to(hidden.device), module.bias.to(hidden.device)
        return _add_and_layer_norm(hidden, more, *weights, module.eps)
    return hidden + more, module(hidden + more)


@fused
def _add_and_rms_norm(hidden, more, weight, epsilon):
    hidden = hidden + more
    return hidden, F.rms_norm(hidden, weight.shape, weight, epsilon)


@fused
def _add_and_layer_norm(hidden, more, weight, bias, epsilon):
    hidden = hidden + more
    return hidden, F.layer_norm(hidden, weight.shape, weight, bias, epsilon)
