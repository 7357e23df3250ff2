"""The answers and hours in benchmarks/README.md are those of the committed tables."""

import json
import statistics

import pandas as pd
import pytest

from kvlib.lab.report import paths

RESULTS = paths.ROOT / "benchmarks/results"
TEXT = (paths.ROOT / "benchmarks/README.md").read_text()
NOTES = " ".join(TEXT.split())


def share(row: pd.Series) -> str:
    return f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("drop_static_answers.csv", {"now": "now", "title": "title", "history": "cards two to eight chunks old"}),
        ("drop_static_lyrics.csv", {"now": "now", "title": "title"}),
    ],
)
def test_answers_with_dropped_tokens(file, names):
    table = pd.read_csv(RESULTS / file).set_index(["question", "method"])
    for question, name in names.items():
        kept, dropped = (table.loc[(question, method)] for method in ("all tokens", "drop_static=0.03"))
        low, middle, high = (100 * dropped[f"difference{end}"] for end in ("_low", "", "_high"))
        less = f"{middle:+.1f}" if round(middle, 1) else "0.0"
        row = [
            name,
            f"{dropped['n']:.0f}",
            f"{kept['accuracy']:.1%}",
            f"{dropped['accuracy']:.1%}",
            f"{less} [{low:.1f}, {high:.1f}]",
        ]
        assert f"| {' | '.join(row)} |" in TEXT


def test_answers_with_recall():
    table = pd.read_csv(RESULTS / "recall_answers.csv").set_index(["question", "method"])
    old = table.loc["history"]
    assert f"two recalled chunks answer {share(old.loc['recall 2'])} of {old.loc['recall 2', 'n']:,.0f} questions" in NOTES
    assert f"the right chunk alone {share(old.loc['right chunk'])}, and none are" in NOTES
    assert old.loc["without recall", "correct"] == 0
    for question in ("now", "title"):
        assert table.loc[question, "correct"].nunique() == 1
    now, title, never = (table.loc[(question, "recall 2")] for question in ("now", "title", "never shown"))
    assert f"Now ({now['accuracy']:.1%}) and title ({title['accuracy']:.1%}) are answered the same" in NOTES
    assert f"in {never['correct']:.0f} of {never['n']:.0f} streams [{never['low']:.1%}, {never['high']:.0%}]" in NOTES


def test_answers_with_recall_where_colours_are_repeated():
    hard = pd.read_csv(RESULTS / "recall_hard_answers.csv").set_index(["question", "method"]).loc["history"]
    assert (
        f"two recalled chunks answer {share(hard.loc['recall 2'])} of {hard.loc['recall 2', 'n']:.0f} such questions" in NOTES
    )
    assert f"the right chunk alone {share(hard.loc['right chunk'])} (100 streams" in NOTES


def test_costs_of_the_archive():
    found = json.loads((RESULTS / "h100_3b_recall.json").read_text())
    chunks = found["chunk_seconds"]
    without, archive = (statistics.median(chunks[name]) for name in ("without", "archive"))
    assert (
        f"{archive / without - 1:.1%} longer (medians of {len(chunks['archive'])} chunks each, {1e3 * without:.1f} ms" in NOTES
    )
    late = sum(seconds > archive + 0.1 for seconds in chunks["archive"])
    assert f"{late} of the {len(chunks['archive'])} chunks took over 100 ms longer" in NOTES
    first = [f"{1e3 * statistics.median(found['ttft'][recalled]):.1f} ms" for recalled in "012"]
    assert "after {} without recall, after {} with one recalled chunk and after {} with two".format(*first) in NOTES
    index = found["index"]
    assert (
        f"takes {1e3 * index['seconds']:.1f} ms; the index has {found['archive']['index_share']:.3%} of the archive's" in NOTES
    )
    assert f"bytes, {index['bytes'] / 2**30:.1f} GiB for 10,000 chunks" in NOTES


def test_hours_of_a_benchmark():
    found = json.loads((RESULTS / "h100_streamed_once.json").read_text())
    assert f"| a second of video | {1e3 * found['seconds_per_second_of_video']:.0f} ms |" in TEXT
    assert f"| a question | {1e3 * found['seconds_per_question']:.0f} ms |" in TEXT
    assert f"3,035 questions, one H100 | {found['projected_hours']:.1f} h (calculated from both) |" in TEXT
    for page, words in (
        ("commands.md", "would take {:.1f} hours on one H100"),
        ("commands.zh.md", "一块 H100 上需要 {:.1f} 小时"),
    ):
        assert words.format(found["projected_hours"]) in (paths.ROOT / "docs" / page).read_text()
    low, high = found["calculated_hours"]["RTX 4090"]
    assert f"by the data sheets | {low:.1f} to {high:.1f} h (calculated, not measured) |" in TEXT
    assert f"a budget of {found['budget']:,} tokens" in NOTES and f"a made video of {found['seconds']} s" in NOTES
