"""A video streamed once answers every question as a new stream does that is fed the frames up to the question and no more."""

import re

import av
import pytest

from kvlib.lab.benchmarks.protocol import Protocol
from kvlib.lab.benchmarks.question import Question
from kvlib.lab.benchmarks.streaming import answer_alone, answer_video, nearest
from kvlib.lab.study.clips import render, write_video
from kvlib.lab.study.synthetic import draw_stream
from kvlib.video import VideoChunks

SECONDS = 9
TIMES = (0.0, 0.3, 1.0, 1.5, 2.0, 2.2, 4.75, 4.75, 7.0, 8.2, 8.5, 30.0)


def question(at: float, number: int = 0, **more) -> Question:
    settings = dict(mode="m", task="t", video="v", times=(at,), prompt=f"What is number {number}?", truth="A")
    return Question(str(number), **settings | more)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Nine scenes of a second each, at 4 frames per second."""
    path = tmp_path_factory.mktemp("clip") / "nine.mp4"
    write_video(path, (frame for scene in draw_stream(SECONDS, 0) for frame in render(scene, 112, 84, 4)), 4)
    return path


def frames_of(clip):
    """All frames at 2 per second, read as one chunk; frame i is shown at i / 2 s."""
    (whole,) = VideoChunks(clip, 1000, 2.0)
    assert whole.times == tuple(number / 2 for number in range(2 * SECONDS))
    return whole.frames


@pytest.mark.parametrize(
    "settings",
    [
        dict(budget=120),
        dict(budget=120, positions="keep"),
        dict(budget=140, positions="unrotated", chunk_frames=3),
        dict(budget=160, policy="uniform", chunk_frames=4),
        dict(budget=130, policy="importance", chunk_frames=5, drop_static=0.05),
        dict(budget=200, recall=2),
        dict(budget=10_000, chunk_frames=1),
    ],
    ids=lambda settings: ", ".join(f"{name} {value}" for name, value in settings.items()),
)
def test_every_answer_is_that_of_a_new_stream_fed_the_prefix(model, processor, clip, settings):
    protocol, frames = Protocol("tiny", **settings), frames_of(clip)
    questions = [question(at, number) for number, at in enumerate(TIMES)]
    streamed = protocol.engine(model, processor)
    rows = answer_video(streamed, protocol.source(clip), questions, protocol)
    assert [row["id"] for row in rows] == [asked.id for asked in questions]
    size, fractions = protocol.chunk_frames, 0
    for row, asked, at in zip(rows, questions, TIMES, strict=True):
        alone, shown = protocol.engine(model, processor), min(int(2 * at) + 1, len(frames))
        for first in range(0, shown, size):
            last = min(first + size, shown)
            alone.append_video_chunk(frames[first:last], 2.0, (last - 1) / 2)
        answer, metrics = alone.ask(asked.prompt, max_new_tokens=64, do_sample=False, recall=protocol.recall)
        info = alone.get_cache_info()
        assert (row["answer"], row["tokens_stored"]) == (answer, info["cache_seq_length"]), at
        assert row["evictions"] == info["eviction_stats"]["total_evictions"]
        assert (row["tokens_dropped"], row["recalled"]) == (info["tokens_dropped"], len(metrics["recalled"]))
        assert (row["time_s"], row["seen_s"]) == (at, (shown - 1) / 2)
        fractions += bool(shown % size)
    assert len({row["answer"] for row in rows}) > 4, "the answers depend on what was seen"
    assert fractions > 3 or size == 1, "questions inside a chunk"
    assert rows[-1]["evictions"] > 1 or protocol.budget > 1000
    assert not protocol.recall or rows[-1]["recalled"] == 2


def test_the_stream_goes_on_as_if_nobody_had_asked(model, processor, clip):
    protocol = Protocol("tiny", 120)
    asked, quiet = (protocol.engine(model, processor) for _ in range(2))
    answer_video(asked, protocol.source(clip), [question(at, n) for n, at in enumerate(TIMES)], protocol)
    answer_video(quiet, protocol.source(clip), [question(99)], protocol)
    assert asked.cache_manager.fingerprint() == quiet.cache_manager.fingerprint()


def test_one_question_alone_is_the_same(model, processor, clip):
    protocol = Protocol("tiny", 120, chunk_frames=4)
    questions = [question(at, number) for number, at in enumerate(TIMES)]
    rows = answer_video(protocol.engine(model, processor), protocol.source(clip), questions, protocol)
    for row, asked in zip(rows, questions, strict=True):
        alone = answer_alone(protocol.engine(model, processor), protocol.source(clip), asked, protocol)
        assert (alone["answer"], alone["tokens_stored"], alone["seen_s"]) == (
            row["answer"],
            row["tokens_stored"],
            row["seen_s"],
        )


def test_nothing_is_streamed_after_the_last_question(model, processor, clip):
    protocol = Protocol("tiny", 500)
    engine = protocol.engine(model, processor)
    answer_video(engine, protocol.source(clip), [question(2.2)], protocol)
    assert engine.cache_manager.last_time == 1.5, "the chunk at 2.0 s was undone"


def test_an_alert_is_polled_until_the_answer_is_yes(model, processor, clip):
    protocol, engine, heard = Protocol("tiny", 500), None, []
    engine = protocol.engine(model, processor)

    def ask(prompt, **options):
        seen = engine.cache_manager.last_time
        heard.append((prompt, seen))
        metrics = dict(ttft=0.0, prompt_tokens=1, recalled=[])
        return ("now it is said" if prompt == "Say it." else "Yes." if seen >= 5 else "no"), metrics

    engine.ask = ask
    alert = question(0, 0, times=(2.0, 3.0, 4.0, 5.0, 6.0), then="Say it.", due_s=5.0)
    never = question(0, 1, times=(1.0, 2.0), prompt="Say it.", then="Say it.", due_s=1.0)
    said, silent = answer_video(engine, protocol.source(clip), [alert, never], protocol)
    assert [seen for prompt, seen in heard if prompt == alert.prompt] == [2.0, 3.0, 4.0, 5.0]
    assert (said["answer"], said["time_s"]) == ("now it is said", 5.0)
    assert (silent["answer"], silent["time_s"]) == ("now it is said", 2.0) and len(heard) == 4 + 1 + 2


def test_of_a_damaged_video_only_what_was_seen_is_asked(model, processor, clip, tmp_path):
    with av.open(str(clip)) as source, av.open(str(tmp_path / "w.mp4"), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    cut, whole = tmp_path / "cut.mp4", (tmp_path / "w.mp4").read_bytes()
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    protocol = Protocol("tiny", 500)
    with pytest.warns(UserWarning, match="cut off or damaged"):
        rows = answer_video(protocol.engine(model, processor), protocol.source(cut), [question(1), question(8, 1)], protocol)
    assert [row["status"] for row in rows] == ["answered", "unreadable video"]
    assert "the last frame is at" in rows[1]["problem"] and "answer" not in rows[1]


def test_a_question_that_does_not_fit_is_refused_alone(model, processor, clip):
    protocol = Protocol("tiny", 120)
    questions = [question(1, 0, prompt="x" * 3000), question(1, 1)]
    rows = answer_video(protocol.engine(model, processor), protocol.source(clip), questions, protocol)
    assert [row["status"] for row in rows] == ["refused", "answered"] and "shorten it" in rows[0]["problem"]


def test_a_free_answer_counts_as_the_nearest_option(model, processor, clip):
    assert nearest("the red wolf", ["The blue wolf", "the red wold", "red", "a wolf"]) == "B"
    assert nearest("", ["one", "two"]) == "A", "of equally near ones the first"
    protocol = Protocol("tiny", 120, free_answers=True)
    asked = question(1, 0, plain="What?", options=("x" * 64, ""))
    engine, heard = protocol.engine(model, processor), []
    engine.ask = lambda prompt, **_: heard.append(prompt) or ("", dict(ttft=0.0, prompt_tokens=1, recalled=[]))
    (row,) = answer_video(engine, protocol.source(clip), [asked], protocol)
    assert heard == ["What?"] and (row["answer"], row["counted"]) == ("", "B")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(budget=0), "max_cache_tokens=0"),
        (dict(budget=9, policy="best"), "policy='best' is unknown"),
        (dict(budget=9, positions="gone"), "position_mode='gone'"),
        (dict(budget=9, recall="all"), "recall='all': give a number of chunks"),
        (dict(budget=9, recall=-1), "recall=-1"),
        (dict(budget=9, drop_static=1.0), "drop_static=1.0"),
    ],
)
def test_a_protocol_that_cannot_be_run_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Protocol("tiny", **settings)


@pytest.mark.parametrize("recall", [0, 1])
def test_a_budget_for_which_chunks_are_too_large_is_refused_and_the_one_that_is_named_works(model, processor, clip, recall):
    problem = Protocol("tiny", 60, recall=recall).misfit(model.config, processor, clip)
    found = re.match(r"budget=60: the first chunk of nine.mp4 takes .* give at least (\d+),", problem)
    protocol = Protocol("tiny", int(found[1]), recall=recall)
    assert protocol.misfit(model.config, processor, clip) == ""
    (row,) = answer_video(protocol.engine(model, processor), protocol.source(clip), [question(9)], protocol)
    assert row["status"] == "answered" and row["recalled"] == recall
