"""From frames to the pixel patches that the vision tower takes, in torch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

MAX_ASPECT = 200  # smart_resize's limit


def check_frame_size(height: int, width: int) -> None:
    """Raise ValueError for a size in pixels that cannot be resized to patches."""
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        limit = f"at least one pixel, and one side at most {MAX_ASPECT} times the other"
        raise ValueError(f"frames of height {height} and width {width}: give {limit}; crop or pad them")


def resize_each(frames: int, height: int, width: int, factor: int, fewest: int, most: int) -> tuple[int, int]:
    """The height and width, multiples of `factor`, to which frames are resized, each within the limits of its pixels."""
    return smart_resize(height, width, factor=factor, min_pixels=fewest, max_pixels=most)


def grid_of(frames: torch.Tensor, settings, resize: Callable[..., tuple[int, int]] = resize_each) -> tuple[int, int, int]:
    """The grid (t, h, w) in patches that uint8 frames [T, H, W, 3] become; `settings` and `resize` as in `patchify`.

    Raises ValueError as `check_frame_size`.
    """
    check_frame_size(*frames.shape[1:3])
    patch, low, high = settings.patch_size, settings.size["shortest_edge"], settings.size["longest_edge"]
    height, width = resize(*frames.shape[:3], patch * settings.merge_size, low, high)
    return -(-len(frames) // settings.temporal_patch_size), height // patch, width // patch


def patchify(
    frames: torch.Tensor, settings, device, resize: Callable[..., tuple[int, int]] = resize_each
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Pixel patches of uint8 frames [T, H, W, 3], computed on `device`.

    Returns fp32 [t*h*w, 3 * temporal_patch * patch * patch], in the order of `Qwen2VLImageProcessorPil`, and the grid
    (t, h, w) in patches. An odd frame is paired with a repeat of the last. `settings` is an image processor of Qwen2-VL:
    patch sizes, pixel limits, mean and standard deviation are read from it. `resize`: as of `kvlib.families.Family`. Raises
    ValueError as `check_frame_size`.
    """
    patch, merge, temporal = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    t, h, w = grid_of(frames, settings, resize)
    pixels = resize_bicubic(frames.to(device).permute(0, 3, 1, 2).float(), h * patch, w * patch)
    mean, std = (torch.tensor(x, device=pixels.device).view(1, 3, 1, 1) for x in (settings.image_mean, settings.image_std))
    pixels = (pixels * settings.rescale_factor - mean) / std
    short = -len(pixels) % temporal
    pixels = torch.cat([pixels, pixels[-1:].expand(short, -1, -1, -1)])
    merged = pixels.view(t, temporal, 3, h // merge, merge, patch, w // merge, merge, patch)  # by merged patch
    patches = merged.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(t * h * w, -1), (t, h, w)


def changed_patches(patches: torch.Tensor, grid: tuple[int, int, int], settings, threshold: float) -> torch.Tensor:
    """Which merged patches of a chunk show something new: bool [t, merged rows x columns], on the device of `patches`.

    `patches`, `grid` and `settings` as of `patchify`. The first temporal grid is all new. A later merged patch is new when
    its pixels differ from those of the last new one at its place by at least `threshold` on average, as a share of full scale.
    Because it is compared with the last *new* one, a slow change is found as soon as it adds up to the threshold.
    """
    scale = torch.tensor(settings.image_std, device=patches.device) / (255 * settings.rescale_factor)  # undoes the processor's
    t, h, w = grid
    pixels = patches.view(t, h * w // settings.merge_size**2, settings.merge_size**2, len(scale), -1)
    new, last = torch.ones(pixels.shape[:2], dtype=torch.bool, device=patches.device), pixels[0]
    for number in range(1, t):
        change = (pixels[number] - last).abs().mean((1, 3)) @ scale / len(scale)
        new[number] = change >= threshold
        last = torch.where(new[number, :, None, None, None], pixels[number], last)
    return new


def resize_bicubic(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize fp32 [T, 3, H, W] of levels 0 to 255 to [T, 3, height, width], antialiased.

    As Pillow does it: one axis after the other with whole levels in between, beginning with the axis that leaves the
    smaller image.
    """
    rows, columns = pixels.shape[-2:]
    between = (rows, width) if rows * width <= height * columns else (height, columns)
    for size in (between, (height, width)):
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return pixels
