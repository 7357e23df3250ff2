"""Decoding and patches, on real H.264 files, against the processor of transformers."""

import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from kvlib.video import VideoChunks, patchify, stack_frames


def write_video(path, frames: np.ndarray, fps: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


@pytest.fixture
def clip(tmp_path):
    """25 frames at 8 frames per second; frame i is of grey level 10 i."""
    frames = np.repeat(np.arange(25, dtype=np.uint8) * 10, 56 * 84 * 3).reshape(25, 56, 84, 3)
    write_video(tmp_path / "clip.mp4", frames, 8)
    return tmp_path / "clip.mp4"


def test_chunks_are_the_sampled_frames_in_order(clip):
    chunks = VideoChunks(clip, chunk_frames=3, sample_fps=2)
    assert len(chunks) == 3
    seen = list(chunks)
    assert [len(frames) for _, frames in seen] == [3, 3, 1]
    assert [time_s for time_s, _ in seen] == [1.0, 2.5, 3.0]
    levels = np.concatenate([frames.mean((1, 2, 3)) for _, frames in seen])
    np.testing.assert_allclose(levels, np.arange(0, 25, 4) * 10, atol=3)


def test_sampling_faster_than_the_video_takes_every_frame_once(clip):
    chunks = VideoChunks(clip, chunk_frames=5, sample_fps=100)
    assert sum(len(frames) for _, frames in chunks) == 25


def test_one_chunk_is_decoded_ahead_and_no_more(clip, monkeypatch):
    chunks = VideoChunks(clip, chunk_frames=2, sample_fps=8)
    asked, original, ahead = [], chunks._reader.get_batch, threading.Event()

    def decode(batch):
        asked.append(len(batch))
        if len(asked) == 2:
            ahead.set()
        return original(batch)

    monkeypatch.setattr(chunks._reader, "get_batch", decode)
    watching = iter(chunks)
    next(watching)
    assert ahead.wait(10), "the second chunk must be decoded while the first is used"
    watching.close()
    assert asked == [2, 2]


def test_damage_is_reported_when_its_chunk_comes(clip, monkeypatch):
    chunks = VideoChunks(clip, chunk_frames=2, sample_fps=8)
    original = chunks._reader.get_batch

    def decode(batch):
        if batch[0] == chunks._frames[2]:
            raise RuntimeError("broken")
        return original(batch)

    monkeypatch.setattr(chunks._reader, "get_batch", decode)
    watching = iter(chunks)
    assert len(next(watching)[1]) == 2
    with pytest.raises(ValueError, match="cannot be decoded"):
        next(watching)


def test_unreadable_files_are_named(tmp_path, clip):
    with pytest.raises(FileNotFoundError, match="nowhere.mp4.*VIDEO_PATH"):
        VideoChunks(tmp_path / "nowhere.mp4")
    for name, content in (("empty.mp4", b""), ("noise.mp4", b"not a video" * 99), ("cut.mp4", clip.read_bytes()[:400])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*not a readable video"):
            VideoChunks(tmp_path / name)


@pytest.mark.parametrize("options", [dict(chunk_frames=0), dict(sample_fps=0)])
def test_unusable_sampling_is_named(clip, options):
    with pytest.raises(ValueError, match="must be positive"):
        VideoChunks(clip, **options)


@pytest.mark.parametrize("size", [(56, 84), (100, 60), (300, 200), (37, 411), (28, 28)])
def test_patches_equal_the_image_processor(processor, size):
    """A pair of equal frames is an image to Qwen2-VL; PIL's fixed-point filter may differ by one of 256 levels."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
    expected = processor.image_processor(images=[image], return_tensors="pt")
    patches, grid = patchify(stack_frames([image, image]), processor.image_processor, "cpu")
    assert [list(grid)] == expected["image_grid_thw"].tolist()
    level = 1 / 255 / min(processor.image_processor.image_std)
    difference = (patches - expected["pixel_values"]).abs()
    assert difference.max() < 1.01 * level
    assert (difference > 0.01 * level).float().mean() < 0.02


def test_frames_of_a_pair_stand_one_behind_the_other(processor, frames):
    both = patchify(frames(2, 5), processor.image_processor, "cpu")[0].view(-1, 3, 2, 14, 14)
    for moment in (0, 1):
        alone = frames(2, 5)[[moment, moment]]
        single = patchify(alone, processor.image_processor, "cpu")[0].view(-1, 3, 2, 14, 14)
        assert torch.equal(both[:, :, moment], single[:, :, 0])


def test_an_odd_frame_is_paired_with_itself(processor, frames):
    odd, grid = patchify(frames(3, 1), processor.image_processor, "cpu")
    even, _ = patchify(frames(3, 1)[[0, 1, 2, 2]], processor.image_processor, "cpu")
    assert grid[0] == 2
    assert torch.equal(odd, even)


def test_images_arrays_and_tensors_are_the_same_frames(frames):
    tensor = frames(2)
    images = [Image.fromarray(frame.numpy()) for frame in tensor]
    assert torch.equal(stack_frames(images), tensor)
    assert torch.equal(stack_frames(tensor.numpy()), tensor)
    assert torch.equal(stack_frames([frame.numpy() for frame in tensor]), tensor)
