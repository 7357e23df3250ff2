"""Decoding and patches, on real H.264 files, against the processor of transformers."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from kvlib.ops.pixels import grid_of, patchify
from kvlib.video import VideoChunks, stack_frames


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


def test_chunks_can_be_read_one_by_one(clip):
    chunks, iterated = VideoChunks(clip, 3, 2), list(VideoChunks(clip, 3, 2))
    for expected in iterated:
        chunk = chunks.read()
        assert chunk.times == expected.times and (chunk.frames == expected.frames).all()
    assert chunks.read() is None and chunks.read() is None
    chunks.close()
    assert chunks.read().times == iterated[0].times, "anew"
    chunks.close()
    assert chunks.read().times == iterated[0].times, "what was closed in the middle begins anew too"
    chunks.close()


def test_sampling_faster_than_the_video_takes_every_frame_once(clip):
    chunks = VideoChunks(clip, chunk_frames=5, sample_fps=100)
    assert sum(len(frames) for _, frames in chunks) == 25


def test_unreadable_files_are_named(tmp_path, clip):
    with pytest.raises(FileNotFoundError, match="nowhere.mp4.*VIDEO_PATH"):
        VideoChunks(tmp_path / "nowhere.mp4")
    cases = {
        "empty.mp4": (b"", "is empty"),
        "noise.mp4": (b"not a video" * 99, "not a readable video: give a file"),
        "cut.mp4": (clip.read_bytes()[:400], "not a readable video: .* cut off, without its index"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            VideoChunks(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder"):
        VideoChunks(tmp_path)


@pytest.mark.parametrize("value", [0, -1, 2.5, 2.0, True, "2", None, float("nan")])
def test_chunk_frames_must_be_a_whole_number(clip, value):
    with pytest.raises(ValueError, match=f"chunk_frames={value!r}: .*whole number"):
        VideoChunks(clip, chunk_frames=value)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "2", None])
def test_sample_fps_must_be_finite_and_positive(clip, value):
    with pytest.raises(ValueError, match=f"sample_fps={value!r}: .*finite, positive"):
        VideoChunks(clip, sample_fps=value)


def test_numbers_of_numpy_are_numbers(clip):
    assert len(VideoChunks(clip, np.int64(3), np.float32(2))) == 3


def test_a_video_that_may_not_be_read_is_named(clip, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may read all files
    with pytest.raises(PermissionError, match="clip.mp4.*permissions"):
        VideoChunks(clip)


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


def numbered(*shape) -> np.ndarray:
    return np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)


STRIDES = {
    "BGR to RGB": lambda a: a[..., ::-1],
    "backwards in time": lambda a: a[::-1],
    "upside down": lambda a: a[:, ::-1],
    "every second pixel": lambda a: a[:, ::2, ::2],
    "channels first in memory": lambda a: a.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
    "columns first in memory": np.asfortranarray,
}


@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_arrays_of_any_strides_are_their_values(view):
    array = view(numbered(4, 30, 40, 3))
    for frames in (array, list(array), iter(array), tuple(torch.from_numpy(frame.copy()) for frame in array)):
        stacked = stack_frames(frames)
        assert stacked.dtype == torch.uint8
        np.testing.assert_array_equal(stacked.numpy(), array)


def test_tensors_of_any_strides_are_their_values():
    array = numbered(2, 3, 30, 40)
    stacked = stack_frames(torch.from_numpy(array).permute(0, 2, 3, 1))
    np.testing.assert_array_equal(stacked.numpy(), array.transpose(0, 2, 3, 1))


@pytest.mark.filterwarnings("error")
def test_arrays_that_may_not_be_written_are_copied_without_a_warning():
    array = numbered(2, 30, 40, 3)
    array.flags.writeable = False
    for frames in (array, list(array), np.asarray(Image.fromarray(array[0]))[None]):
        stacked = stack_frames(frames)
        np.testing.assert_array_equal(stacked.numpy(), array[: len(stacked)])
        stacked.zero_()
    assert array.any()


def test_an_object_array_of_images_is_a_list():
    images = np.empty(2, object)
    images[:] = [Image.new("RGB", (40, 30), "red")] * 2
    assert stack_frames(images)[:, 0, 0].tolist() == [[255, 0, 0]] * 2


COLOURS = {  # an image of each mode, and its RGB
    "1": (1, (255, 255, 255)), "L": (90, (90, 90, 90)), "LA": ((90, 7), (90, 90, 90)),
    "RGBA": ((0, 255, 255, 9), (0, 255, 255)),
    "CMYK": ((255, 0, 0, 0), (0, 255, 255)), "HSV": ((128, 255, 255), (0, 252, 255)), "YCbCr": ((90, 128, 128), (90, 90, 90)),
    "RGB": ((1, 2, 3), (1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("mode, value, expected", [(mode, *both) for mode, both in COLOURS.items()])
def test_images_of_eight_bits_become_rgb(mode, value, expected):
    stacked = stack_frames([Image.new(mode, (40, 30), value)])
    assert stacked.shape == (1, 30, 40, 3)
    assert (stacked.float() - torch.tensor(expected)).abs().max() <= 3  # HSV has 256 hues


def test_images_with_a_palette_become_rgb():
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert stack_frames([image])[0, 0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B", "LAB"])
def test_images_of_more_bits_are_refused_by_mode(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}'.*convert it to 'RGB'"):
        stack_frames([Image.new("RGB", (40, 30)), Image.new(mode, (40, 30))])


def test_an_image_whose_file_is_cut_is_refused(tmp_path):
    Image.effect_noise((300, 200), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:9000])
    with pytest.raises(ValueError, match="file is damaged"):
        stack_frames([Image.open(tmp_path / "cut.png")])


@pytest.mark.parametrize("size", [(0, 40), (30, 0), (0, 0), (1, 201), (2000, 9)])
def test_sizes_without_pixels_and_of_extreme_aspect_are_refused(processor, size):
    frames = np.zeros((2, *size, 3), np.uint8)
    for use in (
        stack_frames,
        lambda a: stack_frames(list(a)),
        lambda a: grid_of(torch.from_numpy(a), processor.image_processor),
    ):
        with pytest.raises(ValueError, match=f"height {size[0]} and width {size[1]}: "):
            use(frames)


@pytest.mark.parametrize("size", [(1, 200), (1, 1), (2000, 10)])
def test_small_and_long_frames_within_the_limit_have_a_grid(processor, size):
    frames = stack_frames(np.zeros((2, *size, 3), np.uint8))
    patches, grid = patchify(frames, processor.image_processor, "cpu")
    assert len(patches) == np.prod(grid) and grid == grid_of(frames, processor.image_processor)


UNUSABLE = {
    "nothing": ([], "zero frames"),
    "an array of nothing": (np.zeros((0, 30, 40, 3), np.uint8), "zero frames"),
    "truth values": (np.zeros((2, 30, 40, 3), bool), "type bool: .*0..255"),
    "NaN": (np.full((2, 30, 40, 3), np.nan), "type float64: .*0..255"),
    "fractions": (torch.zeros(2, 30, 40, 3), "type torch.float32: .*0..255"),
    "fractions in a list": ([np.zeros((30, 40, 3), np.float32)], "type float32: .*0..255"),
    "whole numbers of 16 bits": (np.zeros((2, 30, 40, 3), np.uint16), "type uint16: .*0..255"),
    "numbers as objects": (np.zeros((2, 30, 40, 3), object), "type object"),
    "one image": (Image.new("RGB", (40, 30)), "type Image: give a list"),
    "None": (None, "type NoneType: give a list"),
    "no axes": (np.array(None), "type ndarray: give a list"),
    "a path": (["frame.png"], "type str: give a PIL image"),
    "an image without a list": (np.zeros((30, 40, 3), np.uint8), r"shape \(30, 40, 3\)"),
    "grey": (np.zeros((2, 30, 40), np.uint8), r"shape \(2, 30, 40\)"),
    "channels first": (np.zeros((2, 3, 30, 40), np.uint8), r"shape \(2, 3, 30, 40\)"),
    "clips in a list": ([np.zeros((2, 30, 40, 3), np.uint8)], r"shape \(1, 2, 30, 40, 3\)"),
    "mixed sizes": ([np.zeros((30, 40, 3), np.uint8), Image.new("RGB", (30, 40))], r"mixed sizes .*\(30, 40\), \(40, 30\)"),
}


@pytest.mark.parametrize("frames, message", UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_no_rgb_of_eight_bits_is_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        stack_frames(frames)
