"""What is chosen in the panel: the checks of the notebooks' parameters, paths, and the questions that are offered."""

import os

import pytest

from kvlib.lab.panel.settings import (
    CHOICES,
    READER_LIMITS,
    READER_QUESTIONS,
    PanelSettings,
    find_problems,
    question_problem,
    video_source,
)
from kvlib.lab.report import paths
from kvlib.lab.study.parameters import check_parameters
from kvlib.lab.study.synthetic import COLORS, MAX_AGO, PAST_QUESTION, QUESTIONS

GOOD = dict(
    MODEL_PATH="data/reader", VIDEO_PATH="data/clips/lyrics.mp4", MAX_CACHE_TOKENS=250, POLICY="sink_window",
    POSITION_MODE="remap", CHUNK_FRAMES=2, SAMPLE_FPS=2.0, HEIGHT=0, DROP_STATIC=0.0,
)  # fmt: skip
NOTEBOOK = dict(
    MODEL_PATH="", SEED=0, OUTPUT_DIR="", VIDEO_PATH="", MAX_CACHE_TOKENS=1, OTHER_BUDGETS=[], POSITION_MODE="keep",
    LEAST_CHUNKS=2, MOST_CHUNKS=3, AGES=[1], STREAMS=1, CHUNK_FRAMES=1, SAMPLE_FPS=1.0, HEIGHT=0, ASK_INTERVAL=1,
    DROP_STATIC=0.0,
)  # fmt: skip


def test_good_settings_have_no_problem():
    assert find_problems(GOOD) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_CACHE_TOKENS", 0),
        ("MAX_CACHE_TOKENS", -5),
        ("CHUNK_FRAMES", 0),
        ("SAMPLE_FPS", 0.0),
        ("SAMPLE_FPS", float("inf")),
        ("DROP_STATIC", 1.0),
        ("DROP_STATIC", -0.5),
    ],
)
def test_messages_are_those_of_the_notebooks(name, value):
    found = find_problems(GOOD | {name: value})
    with pytest.raises(ValueError) as raised:
        check_parameters("05_policy_comparison", **NOTEBOOK | {name: value})
    assert found == {name: str(raised.value).removeprefix("05_policy_comparison: ")}


def test_a_negative_height_and_missing_files_are_problems():
    found = find_problems(GOOD | {"HEIGHT": -1, "VIDEO_PATH": "nowhere.mp4", "MODEL_PATH": "nowhere"})
    assert found.keys() == {"HEIGHT", "VIDEO_PATH", "MODEL_PATH"}
    assert "nowhere.mp4" in found["VIDEO_PATH"] and found["HEIGHT"] == "HEIGHT=-1: give a whole number of at least 0"


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "~nobody_of_this_name/x.mp4", "data"])
def test_paths_of_every_kind_are_refused_with_a_message(path):
    found = find_problems(GOOD | {"VIDEO_PATH": path, "MODEL_PATH": path if path != "data" else "data/README.md"})
    assert found.keys() == {"VIDEO_PATH", "MODEL_PATH"} and all(found.values())


def test_live_sources_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert video_source(str(tmp_path / "pipe")) == tmp_path / "pipe"
    assert str(video_source("/dev/null")) == "/dev/null", "a device, as a camera is"
    for url in ("rtsp://camera:554/1", "http://host/live.m3u8?a=b", "tcp://127.0.0.1:9"):
        assert video_source(url) == url
    assert video_source("data/clips/short.mp4") == paths.DATA / "clips" / "short.mp4"


def test_policies_and_scorers_make_an_eviction_config():
    for choice in CHOICES:
        config = PanelSettings(**GOOD | {"POLICY": choice}).eviction()
        assert (config.max_cache_tokens, config.position_mode) == (250, "remap")
        assert choice in (config.policy, getattr(config.policy, "scorer", None))


def test_the_title_tells_settings_apart():
    titles = {
        PanelSettings(**GOOD | change).title()
        for change in ({}, {"HEIGHT": 70}, {"POLICY": "uniform"}, {"CHUNK_FRAMES": 4}, {"DROP_STATIC": 0.03})
    }
    assert len(titles) == 5


def test_the_questions_offered_for_the_reader_are_those_it_was_trained_on():
    trained = {text.format(color=color) for texts in QUESTIONS.values() for text in texts for color in COLORS}
    trained |= {PAST_QUESTION.format(ago=ago) for ago in range(2, MAX_AGO + 1)}
    assert set(READER_QUESTIONS) <= trained and len(set(READER_QUESTIONS)) == len(QUESTIONS) + 1 == 5
    assert "no others" in READER_LIMITS


def test_a_blank_question_is_refused():
    assert question_problem("What?") == ""
    assert "QUESTION=' '" in question_problem(" ")
