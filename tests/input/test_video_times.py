"""Every sample is the frame that was on screen, at its true time: timings, containers and codecs."""

from fractions import Fraction

import av
import decord
import numpy as np
import pytest
from films import TOP, on_screen, read_number, steady, write_film

from kvlib.lab.report import paths
from kvlib.video import VideoChunks

NTSC = Fraction(30_000, 1001)
PAUSE = [*steady(90, 30), *(10 + time for time in steady(90, 30))]
SLOWER = [*steady(120, 30), *(4 + time for time in steady(60, 15))]
DRAW = np.random.default_rng(0)
JITTER = [Fraction(8 + 1000 * i // 30 + int(DRAW.integers(-8, 9)), 1000) for i in range(200)]
MPEG = {"g": "15", "bf": "2", "b": "4000000"}


def check(path, times, fps=2.0, late=0, tolerance=0.001, chunk_frames=2):
    """Samples of a film whose frames were shown at `times`; `late` seconds lie between its start and that of the container."""
    chunks = VideoChunks(path, chunk_frames, fps)
    taken = on_screen(times, fps)
    read = list(chunks)
    assert [read_number(frame) for chunk in read for frame in chunk.frames] == taken
    expected = [float(times[number]) - float(times[0]) + late for number in taken]
    np.testing.assert_allclose([time for chunk in read for time in chunk.times], expected, atol=tolerance)
    assert [chunk.time_s for chunk in read] == [chunk.times[-1] for chunk in read]
    assert len(chunks) == len(read) == -(-len(taken) // chunk_frames)


@pytest.mark.parametrize("fps", [2.0, 0.4, 3, 20, 100])
@pytest.mark.parametrize("times", [steady(200, NTSC), PAUSE, SLOWER, JITTER, [0], steady(60, Fraction(60_000, 1001))],
                         ids=["ntsc", "pause", "slower", "jitter", "one", "59.94"])  # fmt: skip
def test_any_timing(tmp_path, times, fps):
    check(write_film(tmp_path / "a.mp4", times), times, fps)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", dict(options={"g": "30", "bf": "3", "x264-params": "open-gop=1"})),
        ("a.ts", dict(options={"g": "30", "bf": "3"})),
        ("a.flv", dict(options={"bf": "2"})),
        ("a.mov", dict(codec="prores_ks", pixels="yuv422p10le")),
        ("a.mpg", dict(codec="mpeg2video", tick=Fraction(1, 30), options=MPEG)),
        ("a.avi", dict(codec="mpeg4", tick=Fraction(1, 30), options=MPEG)),
        ("b.avi", dict(tick=Fraction(1, 30), options={"bf": "2", "crf": "12"})),
        ("c.avi", dict(codec="mjpeg", pixels="yuvj420p", tick=Fraction(1, 30))),
        ("a.wmv", dict(codec="wmv2", tick=Fraction(1, 30), options={"b": "4000000"})),
        ("a.webm", dict(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})),
        ("b.webm", dict(codec="libvpx", options={"deadline": "realtime", "cpu-used": "8", "b:v": "2M"})),
        ("a.mp4", dict(codec="libsvtav1", options={"preset": "12"})),
        ("b.mp4", dict(codec="libx265", pixels="yuv420p10le", options={"x265-params": "log-level=none:open-gop=1:keyint=30"})),
        ("c.mp4", dict(pixels="yuv444p")),
        ("d.mp4", dict(container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}, options={"g": "20"})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_container_and_codec(tmp_path, name, options):
    times = steady(95, 30)
    path = write_film(tmp_path / name, times, **options)
    with av.open(str(path)) as container:  # AVI has no other first time than 0, or an interval
        first = next(container.decode(video=0))
        late = float(first.pts * first.time_base) - container.start_time / 1e6
    assert late < 0.05
    check(path, times, late=late)
    top = next(iter(VideoChunks(path)))[1][0][8, 50].astype(int)
    assert abs(top - TOP).max() < 20


@pytest.mark.parametrize("bframes", [0, 2])
def test_raw_h264_has_no_times(tmp_path, bframes):
    times = steady(60, 25)
    path = write_film(tmp_path / "a.h264", times, rate=25, format="h264", options={"crf": "12", "bf": str(bframes)})
    check(path, times)


def test_a_gif_and_a_browser_recording_without_duration(tmp_path):
    times = steady(24, 8)
    path = write_film(tmp_path / "a.gif", times, codec="gif", pixels="rgb8", rate=8)
    check(path, times, tolerance=0.006)  # a GIF counts hundredths of a second
    times = steady(60, 30)
    path = write_film(tmp_path / "a.webm", times, codec="libvpx", options={"b:v": "2M"}, container_options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    check(path, times)


@pytest.mark.parametrize(("name", "late"), [("a.mp4", 5), ("a.mkv", 5), ("a.ts", 5), ("b.mp4", 0.3)])
def test_a_video_that_begins_after_its_sound(tmp_path, name, late):
    late = Fraction(late).limit_denominator(10)
    times = [late + time for time in steady(40, 10)]
    path = write_film(tmp_path / name, times, rate=10, sound_s=9.0, options={"crf": "12", "bf": "0"})
    with av.open(str(path)) as container:
        start = container.start_time / 1e6
        first = next(container.decode(video=0)).time
    check(path, times, late=first - start)
    assert first - start == pytest.approx(float(late), abs=0.1)


def test_a_recording_whose_clock_begins_late(tmp_path):
    times = [1000 + time for time in steady(40, 10)]
    check(write_film(tmp_path / "a.ts", times, rate=10), times)


def test_recordings_put_together(tmp_path):
    """The clock of the second part begins again: its frames follow those of the first."""
    parts = [write_film(tmp_path / f"{i}.ts", steady(60, 30), options={"bf": "0", "crf": "12"}).read_bytes() for i in range(2)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    read = list(VideoChunks(tmp_path / "both.ts", 1, 2.0))
    assert [read_number(chunk.frames[0]) for chunk in read] == [0, 15, 30, 45] * 2
    np.testing.assert_allclose([chunk.time_s for chunk in read], [i / 2 for i in range(8)], atol=0.05)


def test_the_rate_of_every_chunk_is_that_of_its_timestamps(tmp_path):
    times = [*range(0, 6), 16, 17, 18]  # one frame a second, and a pause of ten seconds
    chunks = list(VideoChunks(write_film(tmp_path / "a.mp4", times, rate=1), 4, 2.0))
    assert [chunk.times for chunk in chunks] == [(0, 1, 2, 3), (4, 5, 16, 17), (18,)]
    assert [chunk.fps for chunk in chunks] == pytest.approx([1, 3 / 13, 1])


def test_a_long_gap_ends_a_chunk(tmp_path, engine):
    times = [0, 1, 2, 40_000, 40_001]
    chunks = VideoChunks(write_film(tmp_path / "a.mkv", times, rate=1), 4, 1.0)
    assert [chunk.times for chunk in chunks] == [(0, 1, 2), (40_000, 40_001)] and len(chunks) == 2
    streamed = engine()
    for chunk in chunks:
        streamed.append_video_chunk(chunk.frames, chunk.fps)


def test_the_same_frames_as_decord_where_it_reads_rightly():
    """On the shipped clips, whose frames are evenly spaced and have no B-frames across a seek."""
    for name in ("lyrics.mp4", "short.mp4"):
        path = paths.DATA / "clips" / name
        reader = decord.VideoReader(str(path), num_threads=1)
        step = reader.get_avg_fps() / 2
        indices = np.arange(0, len(reader), step).astype(int)[:60]
        theirs = reader.get_batch(indices).asnumpy()
        chunks = []
        for chunk in VideoChunks(path, 2, 2.0):
            chunks.append(chunk)
            if len(chunks) == 30:
                break
        ours = np.concatenate([chunk.frames for chunk in chunks])
        assert ours.shape == theirs[: len(ours)].shape
        assert np.abs(ours.astype(int) - theirs[: len(ours)]).mean() < 2
        np.testing.assert_allclose(
            [t for chunk in chunks for t in chunk.times], indices[: len(ours)] / reader.get_avg_fps(), atol=1e-3
        )
