"""The evaluation of the reader: its streams, its questions, its scores and bars."""

import json
import random
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from kvlib.lab.report import paths
from kvlib.lab.study.synthetic import BLANK_ANSWER, COLORS, answer, dejavu_fonts, draw_stream

sys.path.insert(0, str(paths.ROOT / "data"))

from evaluate_reader import known_differences  # noqa: E402
from evaluation import card, scores, streams  # noqa: E402
from evaluation.streams import CONDITIONS, Condition  # noqa: E402


def test_streams_of_one_grid_a_chunk_are_the_synthetic_ones():
    scenes, shown = streams.draw_scenes(CONDITIONS[0], random.Random(3), 5, dejavu_fonts())
    assert shown == list(range(len(scenes))) and 1 <= len(scenes) <= 16
    assert scenes == draw_stream(len(scenes), 5, "held_out", dejavu_fonts())


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_every_temporal_grid_shows_a_scene_and_each_as_long_as_it_may(condition):
    titles = 0
    for seed in range(40):
        scenes, shown = streams.draw_scenes(condition, random.Random(seed), seed, dejavu_fonts())
        chunks = len(shown) / (condition.frames // 2)
        assert condition.chunks[0] <= chunks <= condition.chunks[1] and chunks == int(chunks)
        held = [shown.count(scene) for scene in range(len(scenes))]
        assert sorted(shown) == shown and set(held[:-1]) <= set(condition.holds) and 1 <= held[-1] <= max(condition.holds)
        titles += bool(scenes[0].color)
    assert (titles > 10) == condition.hard, "in hard streams the title may stand on a card"


def test_questions_about_a_stream_are_asked_with_their_truths():
    condition = Condition("small", 4, (3, 3), 1, (1, 2), 0.03, asked=3, hard=True)
    families = {"dejavu": dejavu_fonts()}
    rows = streams.watch((condition, 1, families, str(paths.READER)))
    rng = random.Random(1)
    rng.choice(sorted(families))
    scenes, shown = streams.draw_scenes(condition, rng, streams.SEED + 1, families["dejavu"])
    ends = [scenes[shown[2 * chunk + 1]].text for chunk in range(3)]
    by_kind = {row["kind"]: row for row in rows}
    assert [row["truth"] for row in rows if row["kind"] in ("current line", "blank")][-1] == (ends[-1] or BLANK_ANSWER)
    title = by_kind["title on a card" if scenes[0].color else "title"]
    assert title["truth"] == scenes[0].text and title["chunks"] == 3
    absent = by_kind["absent card"]["truth"]
    assert absent in {answer(scenes, "card", color) for color in COLORS} and absent.endswith("card seen")
    earlier = by_kind["earlier chunk"]
    ago = int(earlier["question"].split()[-3])
    assert earlier["truth"] == (scenes[shown[5 - 2 * ago]].text or BLANK_ANSWER)
    assert {row["correct"] for row in rows} <= {True, False} and any(row["correct"] for row in rows)


def test_a_folder_without_what_the_card_tells_is_refused_before_the_slow_part(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    command = [sys.executable, paths.ROOT / "data" / "evaluate_reader.py", tmp_path / "fonts", "--reader", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"{tmp_path} has no training.md: the card is written from" in done.stderr


def kinds(accuracy: float, cer: float) -> list[dict]:
    known = dict(n=500, accuracy=accuracy, low=accuracy - 0.01, high=accuracy + 0.01, cer=cer)
    return [dict(condition=condition.name, kind=kind) | known for condition in CONDITIONS for kind in scores.EXACT]


@pytest.mark.parametrize(("accuracy", "cer", "met"), [(0.99, 0.01, 20), (0.955, 0.02, 13), (0.91, 0.03, 8), (0.5, 0.5, 0)])
def test_bars_are_met_or_missed(accuracy, cer, met):
    bars = scores.verdicts(kinds(accuracy, cer))
    assert (len(bars), sum(bar["met"] for bar in bars)) == (6 * 3 + 2, met)


def test_scores_and_differences_are_those_of_the_answers():
    rows = [
        dict(condition="a", stream=stream, kind="title", truth="abcd", answer=said, correct=said == "abcd", question="?")
        for stream, said in enumerate(["abcd", "abce", "abcd", "abcd"] * 2)
    ]
    now = pd.DataFrame(rows)
    scored = scores.score(now, ["condition", "kind"])
    assert [(row["n"], row["accuracy"], row["cer"]) for row in scored] == [(8, 0.75, 1 / 16)]
    before = now.assign(correct=[False, False, True, True] * 2)
    (row,) = scores.differences(now, before)
    assert (row["kind"], row["n"], row["difference"]) == ("title", 8, 0.25) and row["low"] <= 0.25 <= row["high"]


def test_the_comparison_with_the_reader_before_stays_while_the_answers_do(tmp_path):
    stored = json.loads((paths.READER / "evaluation.json").read_text(), parse_constant=pytest.fail)
    answers = pd.read_parquet(paths.READER / "answers.parquet")
    assert known_differences(answers, tmp_path) == [], "a reader that was never evaluated"
    for name in ("answers.parquet", "evaluation.json"):
        shutil.copy(paths.READER / name, tmp_path)
    assert known_differences(answers, tmp_path) == stored["differences"] != []
    assert known_differences(answers.assign(correct=~answers["correct"]), tmp_path) == []


def test_the_card_names_the_families_with_the_most_wrong_lines():
    rows = [("a", 9, 10), ("b", 1, 5), ("c", 10, 10), ("d", 2, 4), ("e", 7, 10)]
    text = card._hardest([dict(family=family, correct=correct, n=n) for family, correct, n in rows])
    assert text == (
        "Of the 10 wrong current lines in\nchunks of 2 frames, 9 are in 3 of 5 font families (b, e, d); "
        "in the others 95.0% of 20 are exact."
    )


def test_what_is_said_about_the_reader_is_what_it_answered():
    answers = pd.read_parquet(paths.READER / "answers.parquet")
    told = " ".join((paths.ROOT / "data" / "README.md").read_text().split())
    lines = answers[answers["kind"] == "current line"].groupby("condition", sort=False)["correct"].agg(["mean", "size"])
    two, _, eight, long, wide = (f"{share:.1%}" for share in lines["mean"])
    counts = [f"(n = {n})" for n in lines["size"]]
    assert (
        f"to {two} in chunks of two frames {counts[0]}" in told and f"to {eight} in chunks of eight frames {counts[2]}" in told
    )
    assert f"to {long} with 17 to 32 chunks in view {counts[3]}" in told
    assert f"to {wide} at 672x336 with a budget of 2,000 tokens {counts[4]}" in told
    short = answers[answers["condition"] == "chunks of 2 frames"]
    title, shown = (f"{short.loc[short['kind'] == kind, 'correct'].mean():.1%}" for kind in ("title", "card"))
    assert f"{two}, {title} and {shown} are read" in told
    line = short[short["kind"] == "current line"]
    hardest = line[~line["correct"]]["family"].value_counts().index[:3]
    assert f"without these three {line[~line['family'].isin(hardest)]['correct'].mean():.1%} are exact" in told
    alike = str.maketrans("0o1I|CSVWXZ", "OOlllcsvwxz")
    same = line["truth"].str.translate(alike) == line["answer"].str.translate(alike)
    assert f"counted as equal, {same.mean():.1%} are exact" in told
