"""Every family: a question inside a chunk sees the frames up to it, at their own times, and leaves no trace."""

from kvlib.lab.benchmarks.protocol import Protocol
from kvlib.lab.benchmarks.question import Question
from kvlib.lab.benchmarks.streaming import answer_video
from kvlib.lab.study.clips import render, write_video
from kvlib.lab.study.synthetic import draw_stream
from kvlib.video import VideoChunks


def test_every_answer_is_that_of_a_new_stream_fed_the_prefix(model, processor, tmp_path):
    """At 3 frames per second two frames are not always half a second apart, and chunks have different rates."""
    path = tmp_path / "clip.mp4"
    write_video(path, (frame for scene in draw_stream(6, 0) for frame in render(scene, 128, 96, 3)), 3)
    (whole,) = VideoChunks(path, 1000, 2.0)
    empty = Protocol("tiny", 1000).engine(model, processor)
    two_chunks = sum(empty.count_tokens(whole.frames[:4], first) for first in (True, False))
    protocol = Protocol("tiny", two_chunks + 20, chunk_frames=4)
    times = (0.5, 3.0, 4.6, 5.5)
    questions = [Question(str(at), "m", "t", "v", (at,), f"What at {at}?", "A") for at in times]
    rows = answer_video(protocol.engine(model, processor), protocol.source(path), questions, protocol)
    for row, question, at in zip(rows, questions, times, strict=True):
        alone, shown = protocol.engine(model, processor), sum(time <= at for time in whole.times)
        for first in range(0, shown, 4):
            seen = whole.times[first : min(first + 4, shown)]
            rate = (len(seen) - 1) / (seen[-1] - seen[0]) if len(seen) > 1 else 1 / (seen[0] - whole.times[first - 1])
            alone.append_video_chunk(whole.frames[first : first + len(seen)], rate, seen[-1])
        assert row["answer"] == alone.ask(question.prompt, max_new_tokens=64, do_sample=False)[0]
        assert row["evictions"] == alone.get_cache_info()["eviction_stats"]["total_evictions"]
    assert len({row["answer"] for row in rows}) > 2 and rows[-1]["evictions"] > 0
