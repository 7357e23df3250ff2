import numpy as np

from kvlib.lab.report import paths
from kvlib.lab.video.source import VideoSource, resize_to_height

CLIP = paths.DATA / "clips/short.mp4"


def test_every_chunk_comes_once_with_the_time_of_its_last_frame():
    source = VideoSource(CLIP, 4, 2.0)
    chunks = list(source)
    assert [chunk.time_s for chunk in chunks] == [1.5, 3.5, 5.5, 7.5, 9.5, 11.5]
    assert {chunk.frames.shape for chunk in chunks} == {(4, 280, 560, 3)} and source.count_chunks() == 6


def test_a_progress_bar_numbers_the_same_chunks_and_knows_how_many_there_are(capsys):
    numbered = list(VideoSource(CLIP, 4, 2.0).chunks("reading"))
    assert [(index, chunk.time_s) for index, chunk in numbered] == [(i, 2 * i + 1.5) for i in range(6)]
    assert "reading" in (shown := capsys.readouterr().err) and "/6" in shown


def test_chunks_are_resized_to_the_height_asked_for():
    plain, small = (next(iter(VideoSource(CLIP, 2, 2.0, height))) for height in (0, 140))
    assert small.frames.shape == (2, 140, 280, 3) and small.times == plain.times
    assert (small.frames == resize_to_height(plain.frames, 140)).all()


def test_frames_are_resized_to_a_height_and_keep_their_shape():
    frames = np.zeros((2, 90, 160, 3), np.uint8)
    frames[:, :, 80:] = 200
    resized = resize_to_height(frames, 45)
    assert resized.shape == (2, 45, 80, 3) and resized.dtype == np.uint8
    assert (resized[:, :, :38] == 0).all() and (resized[:, :, 42:] == 200).all()
