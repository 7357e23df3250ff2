"""The dtype in which keys and values are stored."""

import torch

EIGHT_BIT = torch.float8_e4m3fn  # the one narrower dtype that keys and values may be stored in


def saturating_cast(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`states` in `dtype`; what 8 bits cannot hold becomes the largest number that they can."""
    if dtype == EIGHT_BIT != states.dtype:
        states = states.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    return states.to(dtype)
