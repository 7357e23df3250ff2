"""The tokens that are counted without a model are those that the engine stores and drops."""

import base64
import io
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from kvlib import VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study.clips import write_video
from kvlib.lab.video import dropping
from kvlib.lab.video.source import VideoSource
from kvlib.video import VideoChunk

CLIP = paths.DATA / "clips/short.mp4"  # 12 s: 24 frames at 2 a second


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Nine frames of 56 x 84 pixels: grey, but in frames 6 and 7 the left of three columns of merged patches is white, and in
    the last frame all is black."""
    frames = np.full((9, 56, 84, 3), 100, np.uint8)
    frames[6:8, :, :28] = 255
    frames[8] = 0
    path = tmp_path_factory.mktemp("odd") / "odd.mp4"
    write_video(path, list(frames), fps=2.0)
    return path


def picture(example: dropping.Example) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(example.picture))))


@pytest.mark.parametrize("name", ["short", "odd"])
def test_counts_are_those_of_the_engine(model, processor, odd, name):
    video = CLIP if name == "short" else odd
    counts, _ = dropping.count_kept(model.config, processor, video, 2.0, [2, 6, 10], [0.0, 0.03])
    assert len(counts) == 6
    for row in counts.itertuples():
        engine = VideoStreamingInference(model, processor, "cpu", drop_static=row.drop_static)
        seconds = 0.0
        for _, chunk in VideoSource(video, row.chunk_frames, 2.0).chunks():
            info = engine.append_video_chunk(chunk.frames, chunk.fps)
            seconds += len(chunk.frames) / chunk.fps
        assert (row.tokens, row.dropped) == (info["tokens_seen"], info["tokens_dropped"])
        assert row.chunks == info["chunks"] and row.dropped_of_first == 0
        assert row.seconds == pytest.approx(seconds)
        assert row.dropped_share == pytest.approx(row.dropped / row.tokens)
        assert row.tokens_per_s == pytest.approx(info["cache_seq_length"] / seconds)
    static = counts[(counts["chunk_frames"] == 10) & (counts["drop_static"] == 0.03)]
    assert static["dropped"].item() > 0


def test_the_example_is_the_chunk_of_which_most_grids_are_kept_in_part(model, processor, odd):
    _, example = dropping.count_kept(model.config, processor, odd, 2.0, [2, 4, 8], [0.0, 0.03])
    assert (example.chunk, example.chunk_frames, example.drop_static) == (0, 8, 0.03)
    assert len(example.kept) == 4 * 2 * 3 and example.kept["kept"].sum() == 6 + 2
    left = example.kept[(example.kept["grid"] == 3) & (example.kept["column"] == 0)]
    assert left["kept"].tolist() == [1, 1], "two merged patches have become white"
    shown = picture(example).astype(int)
    assert shown.shape == (4 * 56, 84, 3)
    assert (abs(shown[:168] - 100) < 20).all() and shown[168:, :24].min() > 230, "a frame of each grid, one below the other"


def test_the_later_chunk_is_the_example_where_the_first_stands_still(model, processor, odd):
    _, example = dropping.count_kept(model.config, processor, odd, 2.0, [4], [0.0, 0.03])
    assert example.chunk == 1


def test_a_wide_frame_is_made_smaller_for_the_picture(model, processor):
    _, example = dropping.count_kept(model.config, processor, CLIP, 2.0, [8], [0.03])
    assert picture(example).shape == (4 * 120, 240, 3)


def test_grids_end_where_a_video_begins_a_new_chunk(model, processor, monkeypatch):
    def chunk(times: tuple, height: int = 56) -> VideoChunk:
        return VideoChunk(np.zeros((len(times), height, 84, 3), np.uint8), times, 2.0)

    chunks = [chunk((0.0, 0.5)), chunk((1.0, 1.5)), chunk((2.0, 2.5), 84), chunk((3.0,), 84), chunk((3.5, 4.0), 84)]
    chunks += [chunk((900.0, 900.5), 84), chunk((901.0, 901.5), 84)]
    source = namedtuple("Source", "chunks")
    monkeypatch.setattr(dropping, "VideoSource", lambda *_: source(lambda label: enumerate(chunks)))
    grids = list(dropping.read_grids(processor.image_processor, CLIP, 2.0))
    # before another size, after a chunk that ended early, before a gap of minutes, and at the end
    assert [grid.ends for grid in grids] == [False, True, False, True, True, False, True]
    assert [grid.seconds for grid in grids] == [1, 1, 1, 0.5, 1, 1, 1]
    counts, _ = dropping.count_kept(model.config, processor, CLIP, 2.0, [4], [0.0])
    assert counts["chunks"].item() == 4
