"""Several threads: engines on one model answer as each alone; the calls of one engine queue."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference


def device_and_model(model):
    import copy

    if torch.cuda.is_available():
        return "cuda", copy.deepcopy(model).to("cuda", torch.bfloat16)
    return "cpu", model


def run(engine, frames, first: int, chunks: int = 16) -> list[str]:
    answers = []
    for seed in range(first, first + chunks):
        engine.append_video_chunk(frames(2, seed))
        answers.append(engine.ask("What?", max_new_tokens=6, do_sample=False)[0])
        answers.append(engine.ask("What is it? " * (1 + seed % 3), max_new_tokens=6, seed=seed)[0])
    return answers


@pytest.mark.parametrize("mode", ["keep", "remap", "unrotated"])
def test_engines_on_one_model_in_threads_answer_as_each_alone(model, processor, frames, mode):
    device, model = device_and_model(model)

    def make():
        return VideoStreamingInference(model, processor, device, EvictionConfig(130, position_mode=mode))

    expected = [run(make(), frames, first) for first in (0, 100, 200)]
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda first: run(make(), frames, first), (0, 100, 200)))
        assert found == expected


def test_the_calls_of_one_engine_queue(engine, frames):
    """Chunks from two threads: none is lost, none is half in, and questions in between leave no trace."""
    streamed = engine(EvictionConfig(10_000))
    streamed.append_video_chunk(frames(2, 0))

    def feed(first: int) -> None:
        for seed in range(first, first + 30):
            streamed.append_video_chunk(frames(2, seed))
            streamed.ask("What?", max_new_tokens=2, do_sample=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(feed, (1, 100)))
    manager = streamed.cache_manager
    assert manager.chunks_seen == 61
    assert [chunk.index for chunk in manager.chunks] == list(range(61))
    assert manager.get_seq_length() == sum(chunk.tokens for chunk in manager.chunks) == manager.positions.shape[1]
    starts = [chunk.start for chunk in manager.chunks[1:]] + [manager.next_position]
    assert [chunk.stop for chunk in manager.chunks] == starts
