"""Loading: the model as transformers has it, and the two things of a processor that the engine needs."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

ARCHITECTURE = "qwen2_5_vl"


class StreamQwenModel:
    """Loads transformers' own Qwen2.5-VL, unchanged.

    Not a subclass: transformers renames the tensors of published checkpoints (`visual...`, `model.layers...`) for its own
    classes only, and would leave a subclass with random weights and a warning.
    """

    @staticmethod
    def from_pretrained(path, *args, **kwargs) -> Qwen2_5_VLForConditionalGeneration:
        """As in transformers; `torch_dtype` is accepted for `dtype`.

        Raises FileNotFoundError when nothing can be loaded from `path`, ValueError when it holds another architecture or
        lacks some of the model's tensors.
        """
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        check_architecture(path)
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, *args, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"the checkpoint at {str(path)!r} lacks {len(missing)} of the model's tensors, {missing[0]!r} for one: it is "
                "damaged or incomplete, fetch it again"
            )
        return model


@dataclass(frozen=True)
class Processor:
    """Tokenizer and image settings, under the names that `AutoProcessor` uses."""

    tokenizer: Any
    image_processor: Any


def load_processor(path) -> Processor:
    """Tokenizer and image settings of the checkpoint at `path`; needs no torchvision.

    Raises FileNotFoundError and ValueError as `StreamQwenModel.from_pretrained`.
    """
    check_architecture(path)
    return Processor(AutoTokenizer.from_pretrained(path), Qwen2VLImageProcessorPil.from_pretrained(path))


def check_architecture(path) -> None:
    """Raise FileNotFoundError or ValueError unless `path` holds a Qwen2.5-VL checkpoint without sliding windows."""
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"no checkpoint at {str(path)!r}: give a directory with config.json and weights, or a model's name on the Hub"
        ) from error
    if config.model_type != ARCHITECTURE:
        raise ValueError(
            f"the checkpoint at {str(path)!r} is of architecture {config.model_type!r}, but kvlib streams "
            f"{ARCHITECTURE!r} only: choose a Qwen2.5-VL checkpoint"
        )
    if other := set(config.text_config.layer_types) - {"full_attention"}:
        raise ValueError(
            f"the checkpoint at {str(path)!r} has layers of {sorted(other)}, which forget by themselves: choose one whose "
            'config.json has "use_sliding_window": false'
        )
