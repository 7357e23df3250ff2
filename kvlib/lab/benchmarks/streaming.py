"""One video streamed once, with all its questions asked at their moments.

A question at second t sees the frames up to t. Where t lies inside a chunk, its frames up to t are appended as a shorter last
chunk, the question is asked, and the chunk is undone. So every answer is that of a new stream that is fed the frames up to t in
chunks with the same boundaries.
"""

import time
from collections.abc import Iterator, Sequence

from rapidfuzz.distance import Levenshtein

from kvlib.lab.benchmarks.protocol import Protocol
from kvlib.lab.benchmarks.question import Question
from kvlib.lab.video.source import VideoSource
from kvlib.stream import VideoStreamingInference
from kvlib.video import VideoChunk
from kvlib.video.chunks import chunk_rate

ANSWERED, REFUSED, UNREADABLE, MISSING = "answered", "refused", "unreadable video", "missing video"
NOT_ASKED, FAILED = "not asked", "failed"


class Asker:
    """Asks `questions` whose moment has come, each about the stream as it is then, and collects a row for each."""

    def __init__(self, engine: VideoStreamingInference, questions: Sequence[Question], protocol: Protocol):
        self.engine, self.protocol = engine, protocol
        moments = [(at, question) for question in questions for at in question.times]
        self.waiting = sorted(moments, key=lambda moment: moment[0])
        self.rows: dict[str, dict] = {}

    def due(self, before_s: float) -> Iterator[float]:
        """The moments before a time in seconds, in order, each once. What is asked meanwhile is not due any more."""
        while self.waiting and self.waiting[0][0] < before_s:
            yield self.waiting[0][0]

    def ask(self, moment: float, seen_s: float) -> None:
        """Ask what is due at `moment`, about a stream whose last frame is at `seen_s`; both in seconds."""
        while self.waiting and self.waiting[0][0] == moment:
            _, question = self.waiting.pop(0)
            self.rows[question.id] = asked(question) | dict(time_s=moment, seen_s=seen_s) | self._answer(question)
            if question.then and self.rows[question.id]["agreed"]:
                self.waiting = [other for other in self.waiting if other[1].id != question.id]

    def refuse(self, status: str, problem: str) -> None:
        """Give a row to every question that waits: it cannot be asked."""
        for _, question in self.waiting:
            self.rows[question.id] = unasked(question, status, problem)
        self.waiting = []

    def _answer(self, question: Question) -> dict:
        began, free = time.perf_counter(), self.protocol.free_answers
        options = dict(max_new_tokens=self.protocol.max_new_tokens, do_sample=False, recall=self.protocol.recall)
        agreed = False
        try:
            answer, metrics = self.engine.ask(question.plain if free else question.prompt, **options)
            agreed = bool(question.then) and "yes" in answer.lower()
            if agreed:
                answer, metrics = self.engine.ask(question.then, **options)
        except ValueError as error:  # such as a question longer than the room behind the stream
            return dict(status=REFUSED, problem=str(error), agreed=agreed)
        info = self.engine.get_cache_info()
        return dict(
            status=ANSWERED,
            answer=answer,
            counted=nearest(answer, question.options) if free and question.options else answer,
            seconds=time.perf_counter() - began,
            ttft=metrics["ttft"],
            prompt_tokens=metrics["prompt_tokens"],
            recalled=len(metrics["recalled"]),
            tokens_stored=info["cache_seq_length"],
            tokens_seen=info["tokens_seen"],
            tokens_dropped=info["tokens_dropped"],
            evictions=info["eviction_stats"]["total_evictions"],
            agreed=agreed,
        )


def answer_video(
    engine: VideoStreamingInference, source: VideoSource, questions: Sequence[Question], protocol: Protocol
) -> list[dict]:
    """Stream the video once into a new `engine` and ask all `questions`; a row for each, in their order.

    A row has `id`, `mode`, `task`, `video`, `truth`, `due_s`, `status`, `problem`, `time_s` when it was asked, `seen_s` of the
    last frame before, `answer`, `counted` (what the scorer takes for the answer) and what `ask` and the stream told. A question
    behind the video's end is asked at its end; of a damaged video only those before its last frame are asked. Raises OSError or
    ValueError for a video that cannot be read.
    """
    asker, chunks, before = Asker(engine, questions, protocol), source.opened(), None
    for chunk in map(source.resized, chunks):
        for moment in asker.due(chunk.time_s):
            early = sum(at <= moment for at in chunk.times)
            if early or before is None:
                ask_inside(asker, chunk, max(early, 1), before, moment, protocol.fps)
            else:
                asker.ask(moment, before)
        if not asker.waiting:
            break
        engine.append_video_chunk(chunk.frames, chunk.fps, chunk.time_s)
        before = chunk.time_s
    if chunks.trouble is not None:
        for moment in asker.due(before + 1 / protocol.fps):
            asker.ask(moment, before)
        asker.refuse(UNREADABLE, chunks.trouble)
    for moment in asker.due(float("inf")):
        asker.ask(moment, before)
    return [asker.rows[question.id] for question in questions]


def answer_alone(engine: VideoStreamingInference, source: VideoSource, question: Question, protocol: Protocol) -> dict:
    """The row of one question, asked at one time, from a new `engine` that is fed nothing but the frames up to that time, in
    chunks with the boundaries of the whole video: what `answer_video` must equal."""
    (moment,), before = question.times, None
    for chunk in source:
        early = sum(at <= moment for at in chunk.times)
        if early:
            times = chunk.times[:early]
            engine.append_video_chunk(chunk.frames[:early], chunk_rate(times, before, protocol.fps), times[-1])
            before = times[-1]
        if early < len(chunk.times):
            break
    asker = Asker(engine, [question], protocol)
    asker.ask(moment, before)
    return asker.rows[question.id]


def ask_inside(asker: Asker, chunk: VideoChunk, early: int, before: float | None, moment: float, sample_fps: float) -> None:
    """Ask what is due at `moment` after the first `early` frames of a chunk, and undo them. before: the time of the frame in
    front of the chunk, None where there is none."""
    times = chunk.times[:early]
    with asker.engine.cache_manager.undone():
        asker.engine.append_video_chunk(chunk.frames[:early], chunk_rate(times, before, sample_fps), times[-1])
        asker.ask(moment, times[-1])


def nearest(answer: str, options: Sequence[str]) -> str:
    """The letter of the option with the smallest edit distance to the answer, as a share of the longer text; letters' case does
    not count. Of equally near ones the first."""
    distances = [Levenshtein.normalized_distance(answer.casefold(), option.casefold()) for option in options]
    return chr(ord("A") + distances.index(min(distances)))


def asked(question: Question) -> dict:
    """What every row says of its question."""
    names = ("id", "mode", "task", "video", "truth", "due_s")
    return {name: getattr(question, name) for name in names} | dict(problem="")


def unasked(question: Question, status: str, problem: str) -> dict:
    """The row of a question that was not asked."""
    return asked(question) | dict(status=status, problem=problem, time_s=min(question.times, default=None))
