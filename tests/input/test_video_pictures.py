"""What a player shows: rotation and mirroring, colours, pixel shape, odd sizes; damage; and how much is decoded ahead."""

import gc
import threading
import time
import warnings
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest
from films import numbered, read_number, steady, write_film

from kvlib.video import VideoChunks, ahead
from kvlib.video.picture import as_shown, oriented

COLORS = [(200, 60, 30), (30, 180, 60), (40, 60, 210), (220, 210, 40)]


def first_frame(path) -> np.ndarray:
    return next(iter(VideoChunks(path, 1))).frames[0]


def quarters(height: int, width: int) -> np.ndarray:
    """A picture of four colours: upper left, upper right, lower left, lower right."""
    picture = np.empty((height, width, 3), np.uint8)
    rows, columns = height // 2, width // 2
    for place, color in enumerate(COLORS):
        across, down = place % 2, place // 2
        picture[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns] = color
    return picture


def corners(picture: np.ndarray) -> list[int]:
    """Which colour is nearest, in each quarter."""
    height, width = picture.shape[:2]
    middles = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4),
               (3 * height // 4, 3 * width // 4)]  # fmt: skip
    return [min(range(4), key=lambda c: np.abs(picture[at].astype(int) - COLORS[c]).sum()) for at in middles]


@pytest.mark.parametrize(
    ("angle", "hflip", "vflip", "expected"),
    [  # where a player shows the quarters; ffmpeg's angle is counterclockwise, and flips come after it
        (0, False, False, [0, 1, 2, 3]), (90, False, False, [1, 3, 0, 2]), (180, False, False, [3, 2, 1, 0]),
        (270, False, False, [2, 0, 3, 1]), (0, True, False, [1, 0, 3, 2]), (0, False, True, [2, 3, 0, 1]),
        (90, True, False, [3, 1, 2, 0]), (270, True, False, [0, 2, 1, 3]),
    ],
)  # fmt: skip
def test_the_display_matrix_is_applied(tmp_path, angle, hflip, vflip, expected):
    picture = quarters(96, 192)
    path = write_film(
        tmp_path / "a.mp4",
        steady(4, 4),
        frames=[picture] * 4,
        setup=lambda stream: stream.set_display_rotation(angle, hflip, vflip),
    )
    shown = first_frame(path)
    assert shown.shape == ((192, 96, 3) if angle in (90, 270) else (96, 192, 3))
    assert corners(shown) == expected


def test_all_eight_orientations_move_the_pixels_as_the_matrix_says():
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    for matrix in ((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0),
                   (0, -1, -1, 0)):  # fmt: skip
        a, b, c, d = matrix
        shown = oriented(picture, matrix)
        places = {(x, y): (a * x + c * y, b * x + d * y) for x in range(3) for y in range(2)}
        left, top = (min(place[axis] for place in places.values()) for axis in (0, 1))
        for (x, y), (across, down) in places.items():
            assert shown[down - top, across - left] == picture[y, x]
    assert oriented(picture, (0, 0, 0, 0)) is picture


@pytest.mark.parametrize(("size", "tag"), [((96, 192), None), ((720, 1280), None), ((96, 192), 1), ((720, 1280), 5)])
def test_untagged_hd_is_bt709_and_untagged_sd_bt601(tmp_path, size, tag):
    """The film is encoded with the matrix that players take for it, or with the one that its tag names."""
    matrix = {None: 1 if size[0] >= 720 else 5, 1: 1, 5: 5}[tag]
    source = av.VideoFrame.from_ndarray(quarters(*size), format="rgb24")
    encoded = source.reformat(format="yuv420p", dst_colorspace=matrix)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "8", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if tag:
            stream.codec_context.colorspace = tag
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(encoded.to_ndarray(), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 4)
            if tag:
                frame.colorspace = tag
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = first_frame(tmp_path / "a.mp4")
    for place, color in zip([(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)], COLORS, strict=True):
        found = shown[int(place[0] * size[0]), int(place[1] * size[1])].astype(int)
        assert np.abs(found - color).max() <= 6, (found, color)


def test_frames_take_no_threads_of_their_own(tmp_path):
    """FFmpeg's default is one per core for each frame, until the frame is deleted."""
    path = write_film(tmp_path / "a.mp4", steady(60, 10))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    before = psutil.Process().num_threads()
    pictures = [as_shown(frame, 1.0) for frame in frames]
    assert len(pictures) == 60 and psutil.Process().num_threads() < before + 30


def test_pixels_that_are_not_square(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = write_film(tmp_path / "a.mp4", steady(4, 4), frames=[quarters(96, 144)] * 4, setup=wide)
    shown = first_frame(path)
    assert shown.shape == (96, 192, 3) and corners(shown) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(95, 191), (1, 64)])
def test_odd_sizes(tmp_path, size):
    picture = quarters(size[0] + 1, size[1] + 1)[: size[0], : size[1]]
    path = write_film(tmp_path / "a.mkv", steady(4, 4), codec="ffv1", pixels="yuv444p", frames=[picture] * 4)
    assert first_frame(path).shape == (*size, 3)


def test_a_change_of_size_ends_a_chunk(tmp_path):
    parts = [
        write_film(tmp_path / f"{i}.ts", steady(30, 10), frames=[numbered(7, 96 * i, 192 * i)] * 30, rate=10).read_bytes()
        for i in (1, 2)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    shapes = [chunk.frames.shape for chunk in VideoChunks(tmp_path / "both.ts", 4, 2.0)]
    assert shapes == [(4, 96, 192, 3), (2, 96, 192, 3), (4, 192, 384, 3), (2, 192, 384, 3)]


def test_cover_art_is_no_video(tmp_path):
    def music(path, cover: bool, video: bool):
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=16_000)
            art = container.add_stream("mjpeg", rate=1) if cover else None
            if art:
                art.width, art.height, art.pix_fmt, art.disposition = 64, 64, "yuvj420p", av.stream.Disposition.attached_pic
            film = container.add_stream("libx264", rate=4, options={"crf": "12"}) if video else None
            if film:
                film.width, film.height, film.pix_fmt = 192, 96, "yuv420p"
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
            if art:
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
                container.mux(art.encode(picture.reformat(format="yuvj420p")))
                container.mux(art.encode())
            for number in range(8 * video):
                container.mux(film.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
            if film:
                container.mux(film.encode())
        return path

    with pytest.raises(ValueError, match="only sound"):
        VideoChunks(music(tmp_path / "a.m4a", False, False))
    with pytest.raises(ValueError, match="only a cover picture"):
        VideoChunks(music(tmp_path / "b.mp4", True, False))
    both = VideoChunks(music(tmp_path / "c.mp4", True, True), 1, 4.0)
    assert [read_number(chunk.frames[0]) for chunk in both] == list(range(8))


def test_a_cut_file_gives_what_is_there_and_says_where_it_ended(tmp_path):
    options = {"movflags": "faststart"}
    whole = write_film(tmp_path / "whole.mp4", steady(300, 30), container_options=options).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.warns(UserWarning, match=r"cut\.mp4: the video is cut off or damaged: the last frame is at [4-7].* of 10.00 s"):
        chunks = VideoChunks(path, 2, 2.0)
        read = [read_number(frame) for _, frames in chunks for frame in frames]
    assert read == list(range(0, 300, 15))[: len(read)] and 8 <= len(read) <= 15
    assert "cut.mp4: the video is cut off or damaged" in chunks.trouble
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_bytes(whole)
        assert len(list(chunks)) == 10 and chunks.trouble is None, "of the last time that it was read"


def test_damage_in_the_middle_is_passed_over(tmp_path):
    whole = bytearray(write_film(tmp_path / "whole.ts", steady(300, 30), options={"g": "30", "bf": "0"}).read_bytes())
    middle = len(whole) // 2 // 188 * 188
    whole[middle : middle + 188 * 20] = bytes(188 * 20)
    (tmp_path / "damaged.ts").write_bytes(whole)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        times = [chunk.time_s for chunk in VideoChunks(tmp_path / "damaged.ts", 1, 2.0)]
    assert len(times) >= 17 and times[-1] == pytest.approx(9.5, abs=0.1)


def test_a_codec_without_decoder(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4", steady(4, 4))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"avc1", b"zzz9"))
    with pytest.raises(ValueError, match="codec without a decoder"):
        VideoChunks(path)


def test_a_slow_user_makes_nothing_pile_up(tmp_path, monkeypatch):
    """At most two chunks are decoded and not yet fetched: one waits, one is being made or waits for its place."""
    chunks = VideoChunks(write_film(tmp_path / "a.mp4", steady(200, 20)), 2, 20)
    pictures, most, lock = [0], [0], threading.Lock()
    real = chunks._grouped

    def counted(frames):
        def count():
            for frame in frames:
                with lock:
                    pictures[0] += 1
                    most[0] = max(most[0], pictures[0])
                yield frame

        yield from real(count())

    chunks._grouped = counted
    used = 0
    for chunk in chunks:
        time.sleep(0.02 if used < 40 else 0)
        with lock:
            pictures[0] -= len(chunk.frames)
        used += len(chunk.frames)
    assert used == 200 and 4 <= most[0] <= 2 * 2 + 3, "two chunks, the one in use, and the first frame of the next"


def test_an_abandoned_video_leaves_no_thread(tmp_path):
    path = write_film(tmp_path / "a.mp4", steady(400, 20))
    before = threading.active_count()
    for _ in range(5):
        watching = iter(VideoChunks(path, 2, 20))
        next(watching)
        watching.close()
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_user():
    def broken():
        yield 1
        raise RuntimeError("broken")

    items = ahead.read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(items)
