"""Loading: the model as transformers has it, and the two things of a processor that the engine needs."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from kvlib.checkpoint import check_weights, load_config, load_image_processor, load_tokenizer, require, require_tensors
from kvlib.families import family_of

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


class StreamQwenModel:
    """Loads transformers' own model of a family of `kvlib.families`, unchanged; config.json says which.

    Not a subclass: transformers renames the tensors of published checkpoints (`visual...`, `model.layers...`) for its own
    classes only, and would leave a subclass with random weights and a warning.
    """

    @staticmethod
    def from_pretrained(path, *args, **kwargs) -> PreTrainedModel:
        """As in transformers; `torch_dtype` is accepted for `dtype`. Code from a checkpoint is never run.

        The files of a local folder are checked before any weight is read. Raises FileNotFoundError for missing files,
        ValueError for damaged files, another architecture, tensors that are missing, of another shape or not finite, and
        for `trust_remote_code=True`.
        """
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        own_code = kwargs.pop("trust_remote_code", False)
        require(not own_code, path, f"with trust_remote_code={own_code}: kvlib runs no code from a checkpoint", "leave it out")
        config = load_config(path, **{name: kwargs[name] for name in HUB_OPTIONS if name in kwargs})
        files = check_weights(path, config)
        # No pickles are read. Wrong shapes come back in `info`, where `require_tensors` refuses them.
        fixed = dict(output_loading_info=True, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True)
        try:
            model, info = family_of(config).transformers_class.from_pretrained(path, *args, **kwargs | fixed)
        except ImportError as error:  # a quantized checkpoint
            raise ValueError(f"the checkpoint at {str(path)!r} needs another package: {error}") from error
        require_tensors(path, info["missing_keys"], info["mismatched_keys"])
        _check_finite(model, path, files)
        return model


@dataclass(frozen=True)
class Processor:
    """Tokenizer and image settings, under the names that `AutoProcessor` uses."""

    tokenizer: Any
    image_processor: Any


def load_processor(path) -> Processor:
    """Tokenizer and image settings of the checkpoint at `path`; needs no torchvision.

    Raises FileNotFoundError for missing files, ValueError for damaged ones and for those of another model.
    """
    config = load_config(path)
    return Processor(load_tokenizer(path, config), load_image_processor(path, config))


def _check_finite(model, path, files: dict) -> None:
    """Refuse NaN and infinity in norms, biases and embeddings. To look at all weights would take too long."""
    embeddings = [module.weight for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    for name, values in model.named_parameters():
        if values.is_meta or not values.is_floating_point() or not (values.ndim == 1 or any(values is e for e in embeddings)):
            continue
        extremes = torch.stack(torch.aminmax(values.detach()))  # NaN if any value is; needs no copy of the tensor
        problem = f"has NaN or infinite values in {name!r}, as {values.dtype}"
        require(extremes.isfinite().all(), files.get(name, path), problem, "fetch it again, or load it as bfloat16")
