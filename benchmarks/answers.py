"""How many answers of the embedded reader change with 8-bit keys and values, dropping what stands still, or recall.

    .venv/bin/python benchmarks/answers.py eight-bit --streams 100 --out benchmarks/results/eight_bit.csv
    .venv/bin/python benchmarks/answers.py drop-static --streams 200 --out benchmarks/results/drop_static_answers.csv
    .venv/bin/python benchmarks/answers.py lyrics --out benchmarks/results/drop_static_lyrics.csv
    .venv/bin/python benchmarks/answers.py recall --streams 200 --out benchmarks/results/recall_answers.csv
    .venv/bin/python benchmarks/answers.py recall-hard --streams 100 --out benchmarks/results/recall_hard_answers.csv

All ways of one comparison have the same budget and see the same frames, in the position mode "remap". drop-static: streams of
chunks of eight frames, four frames a scene, so that the text changes in the middle of every chunk; now and title are asked in
between too. lyrics: the clip in chunks of eight frames, once for each of several first frames; now (the last frame's text)
and title (the first frame's) are asked after every chunk. recall: streams of 48 chunks of two frames, 500 tokens of which two
chunks' are kept free; the questions of notebook 06 (history: cards at least ten chunks old), for many more streams than its
small run. recall-hard: the same, but every colour was shown once before, and the title is a card of one of these colours.
Writes a table with 95% intervals over streams (lyrics: over the blocks of `BLOCK_S` seconds, as there is one video).
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pandas as pd
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import retention, runs
from kvlib.lab.study.clips import SOURCE_SIZE, chunks_of_whole, encode_and_decode, render, write_video
from kvlib.lab.study.recall import comparison
from kvlib.lab.study.scoring import exact_match
from kvlib.lab.study.statistics import count_by_stream, paired_difference
from kvlib.lab.study.synthetic import BLANK_ANSWER, QUESTIONS, Scene
from kvlib.lab.video.subtitles import read_srt, truth_at
from kvlib.ops.storage import EIGHT_BIT
from kvlib.video import VideoChunks

BUDGET, LENGTHS, AGES, SEED = 1000, (16, 48), (2, 4, 8), 0
DROP, FRAMES, FPS = 0.03, 8, 2.0  # threshold, frames of a chunk and per second
SCENES = FRAMES // 4  # of a chunk
CHUNKS, ASKED = 12, (4, 8, 12)  # of a stream, and after which of them it is asked
RECALL_BUDGET, RECALL_CHUNKS, RECALL_AGES = 500, 48, (10, 16, 24, 36, 44)
FIRST_FRAMES, BLOCK_S = (0, 2, 4, 6), 20.0  # of the lyrics clip
ALL = "all tokens"


def eight_bit(model, processor, streams: int) -> pd.DataFrame:
    """Answers [stream, method, question, correct, ...] with the model's own dtype and with 8 bits."""

    def storing(kv_dtype: torch.dtype | None) -> Callable:
        config = EvictionConfig(BUDGET, position_mode="remap")
        return lambda model, processor: VideoStreamingInference(model, processor, model.device, config, kv_dtype)

    engines = {BUDGET: {str(model.dtype): storing(None), str(EIGHT_BIT): storing(EIGHT_BIT)}}
    return retention.compare(model, processor, engines, LENGTHS, AGES, streams, SEED)


def drop_static(model, processor, streams: int) -> pd.DataFrame:
    """Answers [stream, method, question, correct, stored_tokens, ...] with all tokens and without those that stand still."""

    def process(stream: int) -> list[dict]:
        scenes, colors = retention.draw_history_stream(SCENES * CHUNKS, [SCENES * age for age in AGES], SEED + stream)
        engines, rows = both(model, processor), []
        for number, frames in enumerate(chunks_of(scenes), start=1):
            for name, engine in engines.items():
                info = engine.append_video_chunk(frames, FPS)
                if number in ASKED:
                    shown = colors if number == CHUNKS else {}
                    asked = retention.ask_all(engine, scenes[: SCENES * number], shown)
                    rows += [dict(stream=stream, method=name, **tokens(info)) | row for row in asked]
        return rows

    return pd.DataFrame([row for rows in runs.each_stream(process, streams, model) for row in rows])


def lyrics(model, processor) -> pd.DataFrame:
    """Answers about the clip, as of `drop_static`; a `stream` is a block of `BLOCK_S` seconds."""
    subtitles = read_srt(paths.CLIP.with_suffix(".srt"))
    read = list(VideoChunks(paths.CLIP, 1, FPS))
    frames, times = np.concatenate([chunk.frames for chunk in read]), [chunk.time_s for chunk in read]
    rows = []
    for first in FIRST_FRAMES:
        engines, title = both(model, processor), truth_at(subtitles, times[first])
        for start in range(first, len(frames) - FRAMES + 1, FRAMES):
            last = start + FRAMES - 1
            now = truth_at(subtitles, times[last]) or BLANK_ANSWER
            for name, engine in engines.items():
                info = engine.append_video_chunk(frames[start : last + 1], FPS, times[last])
                for question, truth in (("now", now), ("title", title)):
                    said, _ = engine.ask(QUESTIONS[question][0], max_new_tokens=60, do_sample=False)
                    known = dict(question=question, truth=truth, answer=said, correct=exact_match(said, truth))
                    rows.append(dict(stream=int(times[last] // BLOCK_S), method=name, **tokens(info)) | known)
    return pd.DataFrame(rows)


def recall(model, processor, streams: int, harder: bool = False) -> pd.DataFrame:
    """Answers of one engine, as of `eight_bit`: without recall, with two recalled chunks, and with the right chunk recalled."""

    def process(stream: int) -> list[dict]:
        scenes, colors = retention.draw_history_stream(RECALL_CHUNKS, RECALL_AGES, SEED + stream)
        if harder:
            scenes = retention.repeat_colors(scenes, colors, SEED + stream)
        frames = list(encode_and_decode(scenes))
        chunk = VideoStreamingInference(model, processor, model.device).count_tokens(frames[0])
        config = EvictionConfig(RECALL_BUDGET, recall_tokens=2 * chunk)
        engine, rows = VideoStreamingInference(model, processor, model.device, config, archive="memory"), []
        for part in frames:
            engine.append_video_chunk(part)
        evicted, before = engine.cache_manager.state.evicted, engine.cache_manager.fingerprint()
        for row in comparison.list_questions(scenes, colors):
            right = [row["chunk"]] if row["chunk"] in evicted else 0
            for name, recalled in (("without recall", 0), ("recall 2", 2), ("right chunk", right)):
                said, _ = engine.ask(row["text"], max_new_tokens=60, do_sample=False, recall=recalled)
                known = dict(question=row["question"], age=row["age"], truth=row["truth"], answer=said)
                rows.append(dict(stream=stream, method=name, correct=exact_match(said, row["truth"])) | known)
        if engine.cache_manager.fingerprint() != before:
            raise RuntimeError(f"stream {stream}: the questions have changed the stream")
        return rows

    return pd.DataFrame([row for rows in runs.each_stream(process, streams, model) for row in rows])


def both(model, processor) -> dict[str, VideoStreamingInference]:
    """An engine that keeps all tokens and one that drops those below `DROP`."""
    config = EvictionConfig(BUDGET, position_mode="remap")
    return {
        name: VideoStreamingInference(model, processor, model.device, config, drop_static=drop)
        for name, drop in ((ALL, 0.0), (f"drop_static={DROP}", DROP))
    }


def chunks_of(scenes: list[Scene]) -> Iterator[np.ndarray]:
    """The scenes as H.264, four frames each, decoded again: uint8 [8, H, W, 3] for every chunk."""
    with NamedTemporaryFile(suffix=".mp4") as file:
        pictures = (frame for scene in scenes for frame in render(scene, *SOURCE_SIZE, FRAMES // SCENES))
        write_video(file.name, pictures, fps=FPS)
        for chunk in chunks_of_whole(file.name, FRAMES, FPS):
            yield chunk.frames


def tokens(info: dict) -> dict:
    return {"seen_tokens": info["tokens_seen"], "stored_tokens": info["tokens_seen"] - info["tokens_dropped"]}


def table(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for each question and method: the share of exact answers with its interval, how much larger it is than that of the
    first method, and the tokens that were stored per stream."""
    base, parts = answers["method"].iloc[0], []
    for question, asked in answers.groupby("question", sort=False):
        shares = count_by_stream(asked, ["method"], SEED).set_index("method")
        against = paired_difference(asked, "method", base, SEED, [question]).add_prefix("difference_")
        parts.append(shares.join(against).assign(question=question).reset_index())
    counted = pd.concat(parts).set_index(["question", "method"])
    if "stored_tokens" in answers:
        stored = answers.groupby("method")[["seen_tokens", "stored_tokens"]].max()
        counted = counted.join(stored, on="method")
    return counted.rename(columns={"difference_difference": "difference"})


STUDIES = {"eight-bit": eight_bit, "drop-static": drop_static, "lyrics": lyrics, "recall": recall}
STUDIES["recall-hard"] = partial(recall, harder=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=STUDIES)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    model, processor = runs.load(str(paths.READER))
    given = (model, processor) if options.what == "lyrics" else (model, processor, options.streams)
    answers = STUDIES[options.what](*given)
    found = table(answers)
    found.to_csv(options.out)
    budget = RECALL_BUDGET if options.what.startswith("recall") else BUDGET
    print(f"{options.what}: {answers['stream'].nunique()} streams, {budget} tokens, seed {SEED}, {model.device}")
    print(found.to_string(float_format="%.3f"))


if __name__ == "__main__":
    main()
