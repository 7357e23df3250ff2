"""From a video file to pixel patches: decoded one batch at a time by decord, resized and patchified in torch."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize


class VideoChunks:
    """The chunks of a video file, `chunk_frames` frames each, sampled at `sample_fps` frames per second.

    Iterating yields `(time_s, frames)`: the time of the chunk's last frame in seconds and uint8 [T, H, W, 3]. While one chunk
    is used the next is decoded, and no more than that. The last chunk may be shorter.

    Raises FileNotFoundError for a missing file, ValueError for a file without a readable frame and for a frame count or
    rate that is not positive.
    """

    def __init__(self, path, chunk_frames: int = 2, sample_fps: float = 2.0):
        if chunk_frames < 1 or sample_fps <= 0:
            raise ValueError(f"chunk_frames={chunk_frames}, sample_fps={sample_fps}: both must be positive")
        self.path, self.chunk_frames, self.sample_fps = Path(path), chunk_frames, sample_fps
        self._reader = _open(self.path)
        self.video_fps = float(self._reader.get_avg_fps())
        step = max(self.video_fps / sample_fps, 1.0)  # never the same frame twice
        self._frames = np.arange(0, len(self._reader), step).astype(int)

    def __len__(self) -> int:
        """Number of chunks."""
        return -(-len(self._frames) // self.chunk_frames)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        batches = [self._frames[i : i + self.chunk_frames] for i in range(0, len(self._frames), self.chunk_frames)]
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(self._decode, batches[0])
            for batch, following in zip_longest(batches, batches[1:]):
                frames = upcoming.result()
                if following is not None:
                    upcoming = ahead.submit(self._decode, following)
                yield float(batch[-1] / self.video_fps), frames

    def _decode(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self._reader.get_batch(batch).asnumpy()
        except Exception as error:  # decord raises its own type
            raise ValueError(
                f"{self.path}: frames {batch[0]} to {batch[-1]} cannot be decoded; the file is damaged there. "
                "Re-encode it (for example to H.264 in MP4)"
            ) from error


def _open(path: Path):
    import decord

    if not path.is_file():
        raise FileNotFoundError(f"no video file at {str(path)!r}: check VIDEO_PATH")
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
    except Exception as error:  # decord raises its own type
        raise ValueError(
            f"{str(path)!r} ({path.stat().st_size} bytes) is not a readable video: give a file with a video stream, "
            "such as H.264 in MP4"
        ) from error
    if len(reader) == 0:
        raise ValueError(f"{str(path)!r} holds no frames: give a video with at least one")
    return reader


def stack_frames(frames) -> torch.Tensor:
    """One uint8 tensor [T, H, W, 3] of a list of PIL images, of an array or of a tensor.

    Raises ValueError for no frames, frames of mixed sizes, and anything that is not 8-bit RGB.
    """
    if isinstance(frames, torch.Tensor | np.ndarray):
        stacked = torch.as_tensor(frames)
    else:
        images = [np.asarray(frame.convert("RGB") if hasattr(frame, "convert") else frame) for frame in frames]
        sizes = sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            raise ValueError(f"frames of mixed sizes (height, width) {sizes}: resize them to one size per chunk")
        stacked = torch.from_numpy(np.stack(images)) if images else torch.empty(0)
    if stacked.shape[:1].numel() == 0 or not len(stacked):
        raise ValueError("a chunk of zero frames: give at least one frame")
    if stacked.ndim != 4 or stacked.shape[-1] != 3 or stacked.dtype != torch.uint8:
        raise ValueError(
            f"frames of shape {tuple(stacked.shape)} and type {stacked.dtype}: give uint8 RGB, [frames, height, width, 3]"
        )
    return stacked


def grid_of(frames: torch.Tensor, settings) -> tuple[int, int, int]:
    """The grid (t, h, w) in patches that uint8 frames [T, H, W, 3] become; `settings` as in `patchify`."""
    patch, limits = (
        settings.patch_size,
        dict(min_pixels=settings.size["shortest_edge"], max_pixels=settings.size["longest_edge"]),
    )
    height, width = smart_resize(*frames.shape[1:3], factor=patch * settings.merge_size, **limits)
    return -(-len(frames) // settings.temporal_patch_size), height // patch, width // patch


def patchify(frames: torch.Tensor, settings, device) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Pixel patches of uint8 frames [T, H, W, 3], computed on `device`.

    Returns fp32 [t*h*w, 3 * temporal_patch * patch * patch], in the order of `Qwen2VLImageProcessorPil`, and the grid
    (t, h, w) in patches. An odd frame is paired with a repeat of the last. `settings` is an image processor of Qwen2-VL:
    patch sizes, pixel limits, mean and standard deviation are read from it.
    """
    patch, merge, temporal = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    t, h, w = grid_of(frames, settings)
    pixels = _resize(frames.to(device).permute(0, 3, 1, 2).float(), h * patch, w * patch)
    mean, std = (torch.tensor(x, device=pixels.device).view(1, 3, 1, 1) for x in (settings.image_mean, settings.image_std))
    pixels = (pixels * settings.rescale_factor - mean) / std
    short = -len(pixels) % temporal
    pixels = torch.cat([pixels, pixels[-1:].expand(short, -1, -1, -1)])
    cells = pixels.view(t, temporal, 3, h // merge, merge, patch, w // merge, merge, patch)
    patches = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(t * h * w, -1), (t, h, w)


def _resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bicubic with antialiasing, as Pillow does it: one axis after the other with whole levels in between, beginning with
    the axis that leaves the smaller image."""
    rows, columns = pixels.shape[-2:]
    between = (rows, width) if rows * width <= height * columns else (height, columns)
    for size in (between, (height, width)):
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return pixels
