"""What is particular to each family of models: one small module per family. The rest of the engine knows none of them.

A new family is one more module here and one entry in `FAMILIES`.
"""

from kvlib.families.family import Family
from kvlib.families.qwen2_5_vl import QWEN2_5_VL
from kvlib.families.qwen2_vl import QWEN2_VL
from kvlib.families.qwen3_vl import QWEN3_VL

FAMILIES = {family.model_type: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL)}
REFUSED = {  # model_type -> why it cannot be streamed
    "qwen3_5": "three of four layers are recurrent, and frames cannot be evicted from a recurrent state",
    "qwen3_5_moe": "three of four layers are recurrent, and frames cannot be evicted from a recurrent state",
}


def family_of(config) -> Family:
    """The family of a model's configuration. Raises ValueError for another model, with those that are known."""
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    raise ValueError(f"the model {refusal(config.model_type)}")


def refusal(model_type: str | None) -> str:
    """Why a model of this type cannot be streamed, and which can."""
    known = ", ".join(f"{family.name} ({family.model_type!r})" for family in FAMILIES.values())
    why = f": {REFUSED[model_type]}" if model_type in REFUSED else ""
    return f"has model_type {model_type!r} in config.json, which kvlib cannot stream{why}; it streams {known}"


__all__ = ["FAMILIES", "Family", "family_of", "refusal"]
