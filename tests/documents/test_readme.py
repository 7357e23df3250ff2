"""The numbers in the README are those of the committed tables."""

import json

import pandas as pd

from kvlib.lab.report import paths
from kvlib.lab.study import statistics

README = " ".join((paths.ROOT / "README.md").read_text().split())
RESULTS = paths.ROOT / "benchmarks/results"


def test_accuracy_over_length_is_that_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/04_accuracy_over_length_scores.csv")
    table = table.set_index(["question", "position_mode", "chunks"])
    remap, keep = (table.loc[("title", mode, 208)] for mode in ("remap", "keep"))
    assert f"in {remap['correct']:.0f} of {remap['n']:.0f} streams" in README
    assert f"interval {remap['low']:.0%} to {remap['high']:.0%}" in README
    assert keep["correct"] == 0 and f"none of {keep['n']:.0f}" in README and f"(0% to {keep['high']:.0%})" in README
    fresh = [table.loc[("current line", mode, 32), "accuracy"] for mode in ("keep", "remap")]
    assert "{:.1%} against {:.1%} after 32 chunks".format(*fresh) in README


def test_retention_is_that_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/05_retention_scores.csv").set_index(["contender", "age"])
    surprise = table.loc["surprise", "accuracy"]
    assert f"keeps {surprise.min():.1%} to {surprise.max():.1%} at every age" in README
    assert table.loc[("sink_window", 16), "correct"] == 0
    assert (table["n"] == 200).all()


def test_strategies_are_those_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/04_strategies_summary.csv").set_index("name")
    assert (table["now_n"] == 200).all() and (table["backward_n"] == 800).all()
    quoted = ["keep", "remap", "lower frame rate", "ask while it runs", "overlapping windows"]
    keep, remap, halved, asked, windows = (table.loc[name] for name in quoted)
    backward = [f"{row['backward']:.1%}" for row in (keep, remap, halved, asked, windows)]
    assert "`keep` answers {} of them exactly and `remap` {}.".format(*backward[:2]) in README
    assert f"Remapping brings the title from {keep['title']:.1%} to {remap['title']:.1%}" in README
    assert f"Half the frame rate gives {backward[2]} " in README
    assert "Asking every four chunks gives {}, two overlapping windows {}.".format(*backward[3:]) in README
    assert f"in {halved['seconds'] / keep['seconds']:.0%} of the time" in README
    times = [f"{row['seconds'] / keep['seconds']:.1f}" for row in (asked, windows)]
    assert "They take {} and {} times the time per chunk".format(*times) in README
    assert f"{windows['cache_bytes'] / keep['cache_bytes']:.1f} times the memory" in README
    assert statistics.recommend(table, "keep") == "overlapping windows"
    assert "Notebook 04 recommends the overlapping windows" in README


def test_recall_is_that_of_the_benchmark():
    answers = pd.read_csv(RESULTS / "recall_answers.csv").set_index(["question", "method"])
    old, never = answers.loc[("history", "recall 2")], answers.loc[("never shown", "recall 2")]
    found = f"it is {old['accuracy']:.1%} ({old['low']:.1%} to {old['high']:.1%}) of {old['n']:,.0f} questions"
    assert found in README
    assert f"in {never['correct']:.0f} of {never['n']:.0f} streams" in README


def test_dropping_is_that_of_the_benchmarks():
    clip = {row["drop_static"]: row for row in json.loads((RESULTS / "cpu_drop_static.json").read_text())["rows"]}
    assert f"takes {clip[0.03]['dropped_share']:.1%} fewer tokens" in README
    answers = pd.read_csv(RESULTS / "drop_static_answers.csv").set_index(["question", "method"])
    kept, dropped = (answers.xs(method, level="method") for method in ("all tokens", "drop_static=0.03"))
    now, title = dropped.loc["now"], dropped.loc["title"]
    assert (answers["n"] == 600).all() and (answers["streams"] == 200).all()
    assert f"with {1 - now['stored_tokens'] / now['seen_tokens']:.1%} fewer tokens" in README
    assert f"({now['accuracy']:.1%} against {kept.loc['now', 'accuracy']:.1%} of 600 questions" in README
    low, high = 100 * now["difference_low"], 100 * now["difference_high"]
    assert f"difference over streams {low:.1f} to {high:.1f} points)" in README
    low, high = 100 * title["difference_low"], 100 * title["difference_high"]
    assert f"({title['accuracy']:.1%} against {kept.loc['title', 'accuracy']:.1%}; {low:.1f} to {high:.1f} points)" in README
    cards = (f"{table.loc['history', 'accuracy']:.1%}" for table in (dropped, kept))
    assert "{} of the cards shown two to eight chunks ago are answered, against {}.".format(*cards) in README
    made = json.loads((RESULTS / "h100_drop_static.json").read_text())["rows"]
    row = next(row for row in made if row["frames"][1] == 1080 and row["static"] == 0.8 and row["drop_static"])
    saved = f"saves {row['dropped_share']:.1%} of the tokens and {row['saved_time_share']:.1%} of the time"
    assert saved in README
    costs = json.loads((RESULTS / "h100_3b_recall.json").read_text())
    assert f"{costs['chunk_overhead']:.1%} slower" in README
    assert f"among 10,000 takes {1e3 * costs['index']['seconds']:.1f} ms" in README
