"""The numbers in the README are those of the committed tables."""

import json
import re

import pandas as pd

from kvlib.lab.report import paths
from kvlib.lab.report.statistics import wilson
from kvlib.lab.study import statistics

README = " ".join((paths.ROOT / "README.md").read_text().split())
RESULTS = paths.ROOT / "benchmarks/results"


def test_accuracy_over_length_is_that_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/04_accuracy_over_length_scores.csv")
    table = table.set_index(["question", "position_mode", "chunks"]).sort_index()
    remap, keep = (table.loc[("title", mode, 208)] for mode in ("remap", "keep"))
    assert f"in {remap['correct']:.0f} of {remap['n']:.0f} streams" in README
    assert f"interval {remap['low']:.0%} to {remap['high']:.0%}" in README
    assert keep["correct"] == 0 and f"none of {keep['n']:.0f}" in README and f"(0% to {keep['high']:.0%})" in README
    near = {f"both answer it in {table.loc[('title', mode, 32), 'correct']:.0f} of" for mode in ("keep", "remap")}
    assert len(near) == 1 and near.pop() in README
    lines = table.loc["current line"]
    remap, keep = (lines.loc[mode, "correct"] for mode in ("remap", "keep"))
    said = "read equally well in both modes (after 208 chunks in {:.0f} of 200 streams with `remap` and in {:.0f} with `keep`)"
    assert said.format(remap[208], keep[208]) in README and (table["n"] == 200).all()
    assert (remap.drop(208) == keep.drop(208)).all() and abs(remap[208] - keep[208]) == 1


def test_retention_is_that_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/05_retention_scores.csv").set_index(["contender", "age"])
    norms, surprise, everything = (table.loc[name, "accuracy"] for name in ("key_norm", "surprise", "none"))
    assert f"(`key_norm`) keeps {norms.min():.1%} to {norms.max():.1%} at every age" in README
    assert f"(`surprise`) {surprise.min():.1%} to {surprise.max():.1%}." in README
    assert f"(`none`) {everything.min():.1%} to {everything.max():.1%} are right at every age" in README
    assert table.loc[("sink_window", 16), "correct"] == 0
    assert (table["n"] == 200).all()


def test_retention_of_the_other_policies_is_that_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/05_retention_scores.csv").set_index(["contender", "age"])
    uniform, chance = (table.loc[name, "accuracy"] for name in ("uniform", "random"))
    uniform, chance = uniform[uniform.index >= 12], chance[chance.index >= 12]
    assert f"keeps {uniform.min():.1%} to {uniform.max():.0%} of what is 12 chunks old or more" in README
    assert f"(`random`) {chance.min():.1%} to {chance.max():.1%}." in README
    report = (paths.ROOT / "figures/full_size/05_policy_comparison_report.txt").read_text()
    (longer,) = re.findall(r"takes (\d+) times as long to the first token", report)
    assert f"takes {longer} times as long to the first token" in README
    now = [float(share) for share in re.findall(r"now, (?!none|last_n)\w+: ([\d.]+)", report)]
    assert f"evicting policies ({min(now):.0%} to {max(now):.0%})" in README and max(now) - min(now) < 0.011
    (again,) = re.findall(r"now, last_n: ([\d.]+)", report)
    assert min(now) <= float(again) <= max(now)
    assert "MOST_CHUNKS = 56" in report and "end after at most 56 chunks" in README


def test_recall_over_age_is_that_of_the_full_size_report():
    report = (paths.ROOT / "figures/full_size/06_recall_report.txt").read_text()
    old = r"cards at least 10 chunks old, {}: ([\d.]+) \(95% interval ([\d.]+) to ([\d.]+)\), n = (\d+)"
    found = r"recall 2 answers ([\d.]+) \[([\d.]+), ([\d.]+)\] of the questions about cards at least 10 chunks old"
    share, low, high = map(float, re.search(found, report).groups())
    n = int(re.search(old.format("recall 2"), report)[4])
    assert f"recall of two chunks answers {share:.1%} of the questions" in README
    assert f"interval over streams {low:.1%} to {high:.1%}, {n} answers of 50 streams of 48 chunks and 30 of 200" in README
    assert "50 streams of 48 chunks and 30 of 200." in report
    assert all(float(re.search(old.format(name), report)[1]) == 0 for name in ("remap", "random"))
    kept = float(re.search(old.format("surprise"), report)[1])
    assert f"a window of the same budget answers none of them, and the policy `surprise` {kept:.1%}" in README
    better = re.search(r"minus the true chunk ([-+][\d.]+) \[([-+][\d.]+), ([-+][\d.]+)\]", report).groups()
    assert "difference {:.1f} points, {:.1f} to {:.1f}".format(*(100 * float(points) for points in better)) in README
    first = re.search(r"the right card first in (\d+ of) (\d+) questions", report).groups()
    assert "the right chunk first for {} the {} questions".format(*first) in README
    (unchanged,) = re.findall(r"fingerprint is as before: ([\d,]+ of [\d,]+)", report)
    assert f"after {unchanged} questions" in README


def test_the_reader_is_that_of_its_evaluation():
    kinds = json.loads((paths.READER / "evaluation.json").read_text())["kinds"]
    line = next(row for row in kinds if (row["condition"], row["kind"]) == ("chunks of 2 frames", "current line"))
    assert f"reads {line['accuracy']:.0%} of current lines exactly, at a character error rate of {line['cer']:.1%}" in README
    lines = pd.read_csv(paths.ROOT / "figures/data/03_lines_lines.csv")
    lines = lines[lines["asked"]]
    low, _ = wilson(int(lines["found"].sum()), len(lines))
    assert f"reads {lines['found'].sum()} of {len(lines)} lines (Wilson interval {low:.0%} to 100%)" in README


def test_eight_bits_and_tokens_that_fit_are_those_of_the_benchmarks():
    stored = pd.read_csv(RESULTS / "eight_bit.csv").set_index(["question", "method"])
    assert (stored["streams"] == 100).all()
    assert (stored[["difference", "difference_low", "difference_high"]] == 0).all(axis=None), "in each stream as many"
    backward = stored.loc[["title", "history"]].groupby("method").sum()
    small, whole = backward.loc["torch.float8_e4m3fn"], backward.loc["torch.float32"]
    right = f"of its {small['n']:.0f} backward answers {small['correct']:.0f} are right, in each of the 100 streams as many as"
    assert right in README and small["correct"] == whole["correct"]
    most = json.loads((RESULTS / "h200_3b.json").read_text())["largest"]
    assert f"{most['kvlib']:,} tokens fit (the loop: {most['plain']:,}), or {most['kvlib, 8-bit']:,} with" in README


def test_strategies_are_those_of_the_full_size_table():
    table = pd.read_csv(paths.ROOT / "figures/full_size/data/04_strategies_summary.csv").set_index("name")
    assert (table["now_n"] == 100).all() and (table["backward_n"] == 400).all()
    assert f"which all answer equally ({table['now'].iloc[0]:.0%})" in README and table["now"].nunique() == 1
    quoted = ["keep", "remap", "lower frame rate", "ask while it runs", "overlapping windows", "recall"]
    keep, remap, halved, asked, windows, recall = (table.loc[name] for name in quoted)
    backward = [f"{row['backward']:.1%}" for row in (keep, remap, halved, asked, windows, recall)]
    assert "`keep` answers {} of them exactly and `remap` {}.".format(*backward[:2]) in README
    assert f"Remapping brings the title from {keep['title']:.1%} to {remap['title']:.1%}" in README
    assert f"Half the frame rate gives {backward[2]} " in README
    assert f"and {halved['title']:.1%} of the titles are answered." in README
    unchanged = table.loc[["lower resolution", "larger budget", "other wording"], "backward"]
    assert unchanged.between(keep["backward_low"], keep["backward_high"]).all()
    assert "Asking every four chunks gives {}, two overlapping windows {}.".format(*backward[3:5]) in README
    assert f"Recall of two chunks gives {backward[5]}" in README
    assert recall["cache_bytes"] == keep["cache_bytes"] and abs(recall["seconds"] / keep["seconds"] - 1) < 0.02
    first = "gets its first token after {:.0f} ms instead of {:.0f}."
    assert first.format(1e3 * recall["ttft"], 1e3 * keep["ttft"]) in README
    assert table.loc["recall + overlapping windows", "backward"] <= recall["backward"]
    assert f"in {halved['seconds'] / keep['seconds']:.0%} of the time" in README
    times = [f"{row['seconds'] / keep['seconds']:.1f}" for row in (asked, windows)]
    assert "They take {} and {} times the time per chunk".format(*times) in README
    assert f"{windows['cache_bytes'] / keep['cache_bytes']:.1f} times the memory" in README
    assert statistics.recommend(table, "keep") == "recall"
    assert "Notebook 04 recommends recall" in README


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
