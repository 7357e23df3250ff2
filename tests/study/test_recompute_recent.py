"""The baseline without a cache: the newest frames encoded anew for every question."""

import pytest

from kvlib import VideoStreamingInference
from kvlib.lab.study.baselines import LastFrames


def test_last_frames_answers_as_an_engine_that_saw_only_those(engine, model, processor, frames):
    first = engine().append_video_chunk(frames())["cache_seq_length"]
    later = engine().count_tokens(frames())
    last = LastFrames(model, processor, "cpu", first + 2 * later + 1)
    fresh = VideoStreamingInference(model, processor, "cpu")
    for seed in range(7):
        info = last.append_video_chunk(frames(2, seed))
        if seed >= 4:
            fresh.append_video_chunk(frames(2, seed))
    options = dict(max_new_tokens=8, do_sample=False)
    answer, metrics = last.ask("What?", **options)
    assert answer == fresh.ask("What?", **options)[0] == last.ask("What?", **options)[0]
    assert metrics["prompt_tokens"] - fresh.ask("What?", **options)[1]["prompt_tokens"] == first + 2 * later
    assert info["chunks"] == 3
    last.append_video_chunk(frames(2, 9))
    fresh = VideoStreamingInference(model, processor, "cpu")
    for seed in (5, 6, 9):
        fresh.append_video_chunk(frames(2, seed))
    assert last.ask("What?", **options)[0] == fresh.ask("What?", **options)[0]


def test_last_frames_refuses_what_cannot_fit(model, processor, frames):
    with pytest.raises(ValueError, match="max_cache_tokens=20"):
        LastFrames(model, processor, "cpu", 20).append_video_chunk(frames())
