"""`kvlib subtitles`: the embedded reader reads the short clip; a run that is stopped anywhere goes on as if it had not been."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice

import pytest

import kvlib.lab.transcribe
from kvlib import VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study.clips import write_video
from kvlib.lab.study.runs import load
from kvlib.lab.video.lines import text_distance
from kvlib.lab.video.subtitles import read_srt
from kvlib.prompts import QUESTION_ZH
from kvlib.video import VideoChunks

CLIP = paths.DATA / "clips/short.mp4"  # 12 s: 12 chunks of a second


@pytest.fixture(scope="module")
def reader():
    return load(paths.READER)


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """The first 6 chunks of the clip as a video of their own."""
    path = tmp_path_factory.mktemp("brief") / "brief.mp4"
    frames = [frame for chunk in islice(VideoChunks(CLIP), 6) for frame in chunk.frames]
    write_video(path, frames, fps=2.0)
    return path


class Calls:
    """What was asked of the engine; `stop_at` is the number of the call at which ctrl-C comes."""

    def __init__(self):
        self.loads, self.questions, self.made, self.stop_at = 0, [], 0, None

    def count(self):
        self.made += 1
        if self.made == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def calls(reader, monkeypatch):
    """The reader, loaded once for all tests, and what it is asked."""
    calls, ask, append = Calls(), VideoStreamingInference.ask, VideoStreamingInference.append_video_chunk

    def counted_load(path):
        calls.loads += 1
        return reader

    def counted_ask(engine, question, **options):
        calls.count()
        calls.questions.append(question)
        return ask(engine, question, **options)

    def counted_append(engine, *chunk):
        calls.count()
        return append(engine, *chunk)

    monkeypatch.setattr(kvlib.lab.transcribe, "load", counted_load)
    monkeypatch.setattr(VideoStreamingInference, "ask", counted_ask)
    monkeypatch.setattr(VideoStreamingInference, "append_video_chunk", counted_append)
    return calls


def log_of(out):
    return out.with_name(f"{out.name}.asks.jsonl")


def asked_chunks(out):
    lines = map(json.loads, log_of(out).read_text().split("\n")[:-1])  # the last one may be cut off
    return [line["ask"]["chunk"] for line in lines if "ask" in line]


def test_the_short_clip_is_read(kvlib, calls, tmp_path):
    status, shown = kvlib("subtitles", str(CLIP), "-o", str(tmp_path / "out.srt"))
    assert status == 0 and shown.endswith("out.srt: 3 subtitles")
    read, truth = read_srt(tmp_path / "out.srt"), read_srt(CLIP.with_suffix(".srt"))
    for found, true in zip(read, truth, strict=True):
        assert text_distance(found.text, true.text) < 0.15
        assert abs(found.start_s - true.start_s) <= 1 and abs(found.end_s - true.end_s) <= 1  # half of 2 s
    assert asked_chunks(tmp_path / "out.srt") == [1, 3, 5, 7, 9, 11]


def test_there_is_always_a_question_after_the_last_chunk(kvlib, calls, brief, tmp_path):
    for every, chunks in ((4, [3, 5]), (6, [5]), (1000, [5])):
        out = tmp_path / f"{every}.srt"
        status, _ = kvlib("subtitles", str(brief), "-o", str(out), "--every", str(every))
        assert status == 0 and asked_chunks(out) == chunks and read_srt(out)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(kvlib, calls, brief, tmp_path):
    """Stopped at every call of the engine, one run after the other, with the log of the run before cut off in its last line."""
    kvlib("subtitles", str(brief), "-o", str(tmp_path / "whole.srt"))
    whole, calls.made, calls.questions[:] = (tmp_path / "whole.srt").read_text(), 0, []
    out, stop_at = tmp_path / "out.srt", 1
    while True:
        calls.made, calls.stop_at = 0, stop_at
        status, shown = kvlib("subtitles", str(brief), "-o", str(out))
        if status == 0:
            break
        assert status == 130 and "stopped" in shown and "Traceback" not in shown
        if calls.questions:
            assert len(asked_chunks(out)) == len(calls.questions), "no question is asked twice"
            assert 1 <= len(read_srt(out)) <= 2
            with log_of(out).open("a") as log:
                log.write('{"ask": {"chunk": 99')
        stop_at += 1
    assert out.read_text() == whole and stop_at > 6, "it was stopped in every chunk"
    assert len(calls.questions) == 3 and asked_chunks(out) == [1, 3, 5]


def test_a_finished_run_needs_no_model(kvlib, calls, brief, tmp_path):
    out = tmp_path / "out.srt"
    kvlib("subtitles", str(brief), "-o", str(out))
    written = out.read_text()
    assert calls.loads == 1
    out.unlink()
    assert kvlib("subtitles", str(brief), "-o", str(out))[0] == 0
    assert kvlib("subtitles", str(brief), "-o", str(out))[0] == 0
    assert out.read_text() == written and calls.loads == 1


def test_other_settings_start_over_with_the_first_new_answer(kvlib, calls, brief, tmp_path):
    out, video = tmp_path / "out.srt", tmp_path / "clip.mp4"
    shutil.copy(brief, video)
    kvlib("subtitles", str(video), "-o", str(out), "--every", "3")
    kept, more = log_of(out).read_text(), ("--language", "zh", "--drop-static", "0.03")
    calls.made, calls.stop_at = 0, 2
    status, shown = kvlib("subtitles", str(video), "-o", str(out), "--budget", "300", *more)
    assert status == 130
    assert "starting over, because of another budget, drop_static, every, question" in " ".join(shown.split())
    assert log_of(out).read_text() == kept, "nothing new was read yet"
    calls.stop_at = None
    status, shown = kvlib("subtitles", str(video), "-o", str(out), "--budget", "300", *more)
    assert status == 0 and asked_chunks(out) == [1, 3, 5]
    assert set(calls.questions[2:]) == {QUESTION_ZH}
    shutil.copy(paths.CLIP, video)  # another video under the same name
    calls.made, calls.stop_at = 0, 1
    shown = kvlib("subtitles", str(video), "-o", str(out), "--budget", "300", *more)[1]
    assert "another video's size, video's time" in shown


def test_what_somebody_else_wrote_is_not_overwritten(kvlib, calls, brief, tmp_path):
    out = tmp_path / "out.srt"
    out.write_text("mine")
    status, shown = kvlib("subtitles", str(brief), "-o", str(out))
    assert status == 2 and "not written by this command" in shown and out.read_text() == "mine" and not log_of(out).exists()
    out.unlink()
    kvlib("subtitles", str(brief), "-o", str(out), "--every", "6")
    corrected = out.read_text().replace("grace", "GRACE")
    out.write_text(corrected)
    status, shown = kvlib("subtitles", str(brief), "-o", str(out))
    assert status == 2 and "changed since" in shown and out.read_text() == corrected
    assert calls.loads == 1


@pytest.mark.parametrize("kind", ["address", "pipe"])
def test_a_live_source_is_refused_with_the_remedy(kvlib, calls, tmp_path, kind):
    source = "rtsp://127.0.0.1:1/live" if kind == "address" else str(tmp_path / "pipe")
    if kind == "pipe":
        os.mkfifo(source)
    status, shown = kvlib("subtitles", source, "-o", str(tmp_path / "out.srt"))
    assert status == 2 and f"{source} is a live source" in shown
    assert "record it to one first" in shown and f"ffmpeg -i {source} -t 600 recording.mp4" in shown
    assert calls.loads == 0 and not (tmp_path / "out.srt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "-o", "{}/out.srt"], "no video file at .*nowhere.mp4"),
        (["pyproject.toml", "-o", "{}/out.srt"], "is not a readable video"),
        ([str(CLIP), "-o", "{}/absent/out.srt"], "no folder .*absent.* for out.srt: make it"),
        ([str(CLIP), "-o", "{}"], "is a folder: give -o the name of an .srt"),
        ([str(CLIP), "-o", "{}/out.srt", "--model", "/nowhere"], "no model directory at /nowhere"),
        ([str(CLIP), "-o", "{}/out.srt", "--every", "0"], "--every"),
        ([str(CLIP)], "-o"),
    ],
)
def test_wrong_arguments_are_found_before_the_model_is_loaded(kvlib, calls, tmp_path, arguments, message):
    status, shown = kvlib("subtitles", *(argument.format(tmp_path) for argument in arguments))
    assert status == 2 and re.search(message, shown), shown
    assert calls.loads == 0 and list(tmp_path.iterdir()) == []


def test_a_budget_too_small_leaves_the_answers_of_another(kvlib, calls, brief, tmp_path):
    out = tmp_path / "out.srt"
    kvlib("subtitles", str(brief), "-o", str(out), "--every", "6")
    kept = log_of(out).read_text()
    status, shown = kvlib("subtitles", str(brief), "-o", str(out), "--budget", "20")
    assert status == 2 and "raise max_cache_tokens" in shown and log_of(out).read_text() == kept


def test_a_real_ctrl_c(tmp_path):
    out = tmp_path / "out.srt"
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background job ignores it
    code = heeded + "from kvlib.lab.cli import app; app()"
    command = [sys.executable, "-c", code, "subtitles", str(paths.CLIP), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (log_of(out).is_file() and len(asked_chunks(out)) > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors
    assert read_srt(out)[1].text == "Amazing grace!"
