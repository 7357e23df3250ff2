"""Small data sets in the exact form of the public benchmarks, made of synthetic clips, with clones of their repositories beside
them that have prompts of our own in the same variables.

`write_ovo` and `write_streamingbench` make a dozen videos each, all tasks, and all quirks of the real files; the answers are
of no interest. `write_reading` makes a set in the form of OVO-Bench whose questions the embedded reader can answer in its own
words.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from kvlib.lab.benchmarks.ovo.loader import ANNOTATIONS, MODES
from kvlib.lab.study.clips import SOURCE_SIZE, render, write_video
from kvlib.lab.study.retention import draw_history_stream
from kvlib.lab.study.synthetic import COLORS, QUESTIONS, Scene, answer, draw_stream

VIDEOS, SECONDS, SIZE = 12, 12, (112, 84)  # of a set; of a clip; width and height in pixels
OPTIONS = 4
OVO_PROMPTS = '''
BR_PROMPT_TEMPLATE = """
Q: {}
Choose from:
{}
Say the letter only.
"""
# REC_PROMPT_TEMPLATE = """Did it happen {} times?"""
REC_PROMPT_TEMPLATE = """
{}
Say the number only.
"""
SSR_PROMPT_TEMPLATE = """
Is this being done now: {}
Say “Yes” or “No”.
"""
CRR_PROMPT_TEMPLATE = """
{}
Can this be answered by now? Say “Yes” or “No”.
"""
'''
OVO_CODE = """
def build_prompt(task, question, options, _anno_, index):
    activity = _anno_["activity"]
    question = "How often do they " + activity + "?"
"""
CHOICE_CODE = """
PROMPT_TEMPLATE = '''Look at the video.

Q: {}
{}
{}
{}
{}'''
def ask(model, inp, ques, options):
    inp = PROMPT_TEMPLATE.format(ques, *options)
    inp += "\\n\\nThe letter:"
    inp += "\\n\\nIn words:"
"""
SEQUENTIAL_CODE = """
PROMPT_TEMPLATE = '''{}
Q: {}
{}
{}
{}
{}'''
def ask(question, ques, options):
    context = ""
    context += "Before this: "
    context += f"At {question['time_stamp']}: {ques} {options[0]} {options[1]} {options[2]} {options[3]} {question['answer']}. "
"""
ALERT_CODE = """
PROMPT_TEMPLATE_PROACTIVE = '''Watch. {}
'''
def ask(question):
    query = f"{question['question']} Is it time for \\"{question['ground_truth_output']}\\"? Say yes or no."
"""


def write_ovo(folder: Path, seed: int = 0) -> None:
    """Write a clone to `folder`, with the data set in `folder`/data.

    Quirks: `answer` is not `options[gt]`, the right option is "E", two options, `test_info` that is not in order of time, a
    moment behind the video's end, a video that is missing, and one that is none.
    """
    rng, clips = random.Random(seed), write_clips(folder / "data/src_videos", "COIN/tutorial {}&index=1.mp4", seed)
    _write_ovo_clone(folder)
    (folder / "data/src_videos/Ego4D").mkdir()
    (folder / "data/src_videos/Ego4D/broken.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    entries, videos = [], cycle(sorted(clips))
    for number, task in enumerate([task for mode in ("backward", "real-time") for task in MODES[mode]] * 2):
        texts = [f"text {rng.randrange(1000)}" for _ in range(5 if number == 3 else 2 if number == 5 else 4)]
        gt = 4 if number == 3 else rng.randrange(len(texts))
        moment = SECONDS + 30 if number == 7 else rng.choice([rng.randrange(SECONDS), round(rng.uniform(1, SECONDS), 2)])
        entry = dict(task=task, video=next(videos), realtime=moment, question=f"What is number {number}?", options=texts, gt=gt)
        entries.append(entry | {"answer": "in other words" if number % 3 == 0 else texts[gt]})
    entries += [entries[0] | {"video": "Ego4D/gone.mp4"}, entries[1] | {"video": "Ego4D/broken.mp4"}]
    counts = [dict(realtime=moment, count=count) for moment, count in ((9, 2), (3, 0), (6.5, 1), (11, 12))]
    entries.append(dict(task="REC", video=next(videos), activity="jump", start_times=[4], end_times=[6], test_info=counts))
    steps = [dict(realtime=moment, step=f"step {moment % 3}", type=moment % 2) for moment in (8, 2, 5)]
    tutorial = dict(tutorial="Jumping", all_steps=["step 0", "step 1"], start_time=[1], end_time=[9])
    entries.append(dict(task="SSR", video=next(videos), test_info=steps) | tutorial)
    clues = [dict(realtime=moment, type=int(moment >= 7)) for moment in (4, 6, 8, 10)]
    question = dict(question="What was said?", answer="nothing", ask_time=4, clue_time=7)
    entries.append(dict(task="CRR", video=next(videos), test_info=clues) | question)
    _write_json(folder / "data" / ANNOTATIONS, [{"id": number} | entry for number, entry in enumerate(entries)])


def write_streamingbench(folder: Path, seed: int = 0) -> None:
    """Write a clone to `folder`, with the videos in `folder`/data/videos and the questions in `folder`/src/data.

    Quirks: time stamps of other forms, five options that are pieces of four, options without letters, questions whose prompts
    have earlier answers, and alerts.
    """
    rng = random.Random(seed)
    named = sorted(write_clips(folder / "data/videos", "sample_{}_real.mp4", seed))
    for name, code in (("", CHOICE_CODE), ("SQA", SEQUENTIAL_CODE), ("Proactive", ALERT_CODE)):
        _write(folder / f"src/benchmark/StreamingBench{name}.py", code)

    def entry(number: int, video: str, stamp: str, **more) -> dict:
        options = [f"{letter}. text {rng.randrange(1000)}" for letter in "ABCD"]
        asked = dict(task_type=f"Task {number % 3}", question=f"What is number {number}?", time_stamp=stamp)
        asked |= dict(answer="ABCD"[number % 4], options=options, required_ability="working memory") | more
        return dict(time="[0:00:00 - 0:00:10]", questions=[asked], video_categories="made", video_path=f"./videos/{video}")

    stamps = [f"00:00:{rng.randrange(1, SECONDS):02}" for _ in named]
    real = [entry(number, video, stamp) for number, (video, stamp) in enumerate(zip(named, stamps, strict=True))]
    real += [entry(number, named[0], stamp) for number, stamp in ((90, "00:12450"), (91, "00:24"), (92, "0:00:8"))]
    real.append(entry(93, "sample_99_real.mp4", "00:00:02"))
    pieces = ["A. one", "half", "B. two", "C. three", "D. four"]
    omni = [entry(number, named[number], "00:00:05", options=pieces[number % 2 :]) for number in (0, 2)]
    bare = ["one", "two", "three", "four"]
    threads = [[entry(n, named[video], f"00:00:0{2 + n}", options=bare) for n in range(3)] for video in (0, 1)]
    alert = dict(ground_truth_time_stamp="00:00:06", ground_truth_output="go")
    alerts = [entry(number, named[number], "00:00:03", **alert) for number in range(2)]
    for name, entries in dict(real=real, omni=omni, sqa=threads, proactive=alerts).items():
        _write_json(folder / f"src/data/questions_{name}.json", entries)


def write_reading(folder: Path, streams: int, chunks: int, ages: Sequence[int], seed: int) -> None:
    """Write a clone to `folder`, with `streams` videos of `chunks` seconds in `folder`/data and questions about their texts.

    Real-time (OCR): the text on screen, at six moments, of which every other lies inside a chunk of two frames. Backward, at
    the end: the texts of cards that were shown `ages` seconds ago (EPM), the first text (ASI), and a card in a colour that was
    never shown (HLD), for which one option says so. The other options are texts of the same video. Raises ValueError for ages
    that leave no colour for that card.
    """
    if len(ages) >= len(COLORS):
        raise ValueError(f"{len(ages)} ages: give at most {len(COLORS) - 1}, so that one colour is never shown")
    _write_ovo_clone(folder)
    entries = []
    for stream in range(streams):
        rng, video = random.Random(f"reading {seed + stream}"), f"reading/{stream}.mp4"
        drawn, shown = draw_history_stream(chunks, ages, seed + stream)
        scenes = [replace(scene, text=scene.text or f"Line {second}") for second, scene in enumerate(drawn)]
        _write_clip(folder / "data" / video, scenes, SOURCE_SIZE, fps=2)
        asked = [("OCR", second + 0.5 * (number % 2), "now", None) for number, second in enumerate(_spread(chunks, 6))]
        unseen = rng.choice(sorted(COLORS.keys() - shown.values()))
        asked += [("EPM", chunks, "card", color) for color in shown.values()]
        asked += [("ASI", chunks, "title", None), ("HLD", chunks, "card", unseen)]
        for task, moment, kind, color in asked:
            seen = scenes[: int(moment) + 1]
            truth = answer(seen, kind, color)
            question = QUESTIONS[kind][0].format(color=color)
            options = _options(rng, truth, [scene.text for scene in scenes], f"No {color} card seen" if color else "")
            same = dict(id=len(entries), task=task, video=video, realtime=moment, question=question, answer=truth)
            entries.append(same | dict(options=options, gt=options.index(truth)))
    _write_json(folder / "data" / ANNOTATIONS, entries)


def write_clips(folder: Path, name: str, seed: int) -> dict[str, list[Scene]]:
    """Write `VIDEOS` clips of `SECONDS` scenes, a second each, called `name` with their number; return the scenes by name."""
    clips = {name.format(number): draw_stream(SECONDS, seed + number) for number in range(VIDEOS)}
    for file, scenes in clips.items():
        _write_clip(folder / file, scenes, SIZE, fps=4)
    return clips


def _write_clip(path: Path, scenes: Sequence[Scene], size: tuple[int, int], fps: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (frame for scene in scenes for frame in render(scene, *size, fps)), fps)


def _write_ovo_clone(folder: Path) -> None:
    _write(folder / "constant.py", OVO_PROMPTS)
    _write(folder / "utils/OVOBench.py", OVO_CODE)


def _options(rng: random.Random, truth: str, others: Sequence[str], always: str) -> list[str]:
    """Different options in random order: the truth, `always` unless it is "", and others."""
    first = dict.fromkeys([truth, *([always] if always else [])])
    rest = [text for text in dict.fromkeys(others) if text not in first]
    options = [*first, *rng.sample(rest, OPTIONS - len(first))]
    return rng.sample(options, len(options))


def _spread(chunks: int, count: int) -> list[int]:
    """`count` seconds, evenly spread over a video of `chunks` seconds."""
    return [(number + 1) * (chunks - 1) // (count + 1) for number in range(count)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, content: list) -> None:
    _write(path, json.dumps(content, indent=1, ensure_ascii=False))
