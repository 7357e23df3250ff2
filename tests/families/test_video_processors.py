"""Pixels against the family's own video processor. That one needs torchvision, so without it these tests are skipped."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kvlib.families import FAMILIES
from kvlib.ops.pixels import patchify

pytest.importorskip("torchvision")
CLASSES = {"qwen2_vl": "Qwen2VLVideoProcessor", "qwen2_5_vl": "Qwen2VLVideoProcessor", "qwen3_vl": "Qwen3VLVideoProcessor"}


@pytest.fixture(params=FAMILIES)
def both(request):
    """Patches, in levels of 0 to 255, and grid of frames, by kvlib and by transformers."""
    family = FAMILIES[request.param]
    own = getattr(transformers, CLASSES[request.param])(cap_pixels_per_frame=False)
    size = dict(zip(("shortest_edge", "longest_edge"), family.pixel_limits, strict=True))
    look = dict(patch_size=own.patch_size, image_mean=own.image_mean, image_std=own.image_std)
    settings = Qwen2VLImageProcessorPil(size=size, **look)
    std = torch.tensor(own.image_std).repeat_interleave(2 * own.patch_size**2)

    def made(frames: torch.Tensor):
        patches, grid = patchify(frames, settings, "cpu", family.resize)
        found = own(videos=[frames.permute(0, 3, 1, 2)], do_sample_frames=False, size=size, return_tensors="pt")
        expected = found["pixel_values_videos"]
        return (patches * std * 255, grid), (expected * std * 255, tuple(found["video_grid_thw"][0].tolist()))

    return made


def noise(count: int, height: int, width: int, coarse: int) -> torch.Tensor:
    """Noise uint8 [count, height, width, 3], interpolated from random pixels that are `coarse` pixels apart."""
    made = torch.rand(count, 3, max(2, height // coarse), max(2, width // coarse), generator=torch.manual_seed(0))
    grown = F.interpolate(made * 255, (height, width), mode="bilinear", align_corners=True)
    return grown.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("count", [2, 3, 6])
def test_patches_of_frames_that_fit_are_the_same(both, count):
    (patches, grid), (expected, expected_grid) = both(noise(count, 448, 224, 1))
    assert grid == expected_grid == (-(-count // 2), *grid[1:])
    torch.testing.assert_close(patches, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(4, 200, 300), (3, 360, 640), (8, 480, 360)])
def test_patches_of_resized_frames_differ_by_rounding(both, size):
    """kvlib resizes as Pillow does, with whole levels between the axes; torchvision rounds elsewhere."""
    (patches, grid), (expected, expected_grid) = both(noise(*size, 16))
    assert grid == expected_grid
    difference = (patches - expected).abs()
    assert difference.max() <= 2.1
    assert difference.mean() < 0.2
