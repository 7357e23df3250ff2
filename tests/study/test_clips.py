"""Rendered scenes, H.264 and the committed clips: what they claim to show is what they show."""

import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from kvlib.lab.report import paths
from kvlib.lab.study import clips, synthetic
from kvlib.lab.study.clips import encode_and_decode, read_video, render, write_video
from kvlib.lab.study.synthetic import Scene
from kvlib.lab.video.subtitles import read_srt

CLIPS = paths.DATA / "clips"


def scene(text, color=None):
    return Scene(text, color, synthetic.dejavu_fonts()[0], "flat", 7)


def test_a_frame_shows_its_text_and_its_colour():
    blank, written = (render(scene(text, "red"), 560, 280)[0].astype(int) for text in ("", "Some words"))
    assert np.abs(blank - written).max() > 80
    red, green, blue = blank.mean((0, 1))
    assert red > green + 100
    assert red > blue + 100


def test_video_survives_h264():
    frames = render(scene("Some words"), 280, 140, 3)
    file = io.BytesIO()
    write_video(file, frames, fps=2, crf=18)
    file.seek(0)
    decoded = read_video(file)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 6


def test_a_study_does_not_go_on_with_a_damaged_video(monkeypatch):
    def write_damaged(path, frames, fps):
        write_video(path, frames, fps)
        with av.open(path) as container:
            later = [packet.pos for packet in container.demux(video=0) if packet.size][4:]
        written = bytearray(Path(path).read_bytes())
        for place in later:
            written[place : place + 8] = b"\xff" * 8  # the length of what follows
        Path(path).write_bytes(written)

    monkeypatch.setattr(clips, "write_video", write_damaged)
    with pytest.warns(UserWarning, match="could not be decoded"), pytest.raises(OSError, match="could not be decoded.*memory"):
        list(encode_and_decode([scene(f"Line {number}") for number in range(6)]))


@pytest.mark.parametrize(("name", "seconds"), [("lyrics", 200), ("short", 12)])
def test_the_clips_are_what_they_are_said_to_be(name, seconds):
    with av.open(str(CLIPS / f"{name}.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 24
        assert stream.frames == 24 * seconds
    subtitles = read_srt(CLIPS / f"{name}.srt")
    assert subtitles[0].start_s == 0
    assert subtitles[-1].end_s <= seconds
    assert all(max(map(len, subtitle.text.split("\n"))) <= synthetic.MAX_LINE for subtitle in subtitles)


def test_the_script_makes_the_committed_clips(tmp_path):
    """Byte for byte for the subtitles; the video's pixels, since another build of x264 may write other bytes."""
    subprocess.run([sys.executable, paths.DATA / "make_clips.py", "--out", tmp_path], check=True)
    for name in ("lyrics", "short"):
        assert (tmp_path / f"{name}.srt").read_bytes() == (CLIPS / f"{name}.srt").read_bytes()
    made, committed = (read_video(str(folder / "short.mp4")) for folder in (tmp_path, CLIPS))
    assert np.abs(made.astype(int) - committed).mean() < 1
