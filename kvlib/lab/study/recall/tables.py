"""Tables of the study of recall: what is right, what it costs, and where the ranking goes wrong."""

import numpy as np
import pandas as pd

from kvlib.lab.report.statistics import with_interval
from kvlib.lab.study.recall.comparison import NEVER, WITH
from kvlib.lab.study.statistics import count_by_stream

OLD = 10  # chunks: cards at least so old are never in the window of the budgets that are compared
ASKED = ("now", "title", "history", NEVER)
PATCH = 28  # pixels: width and height of the part of a frame that becomes one token
FRAMES_PER_GRID = 2


def old_cards(answers: pd.DataFrame) -> pd.DataFrame:
    """`answers` without those about cards that are less than `OLD` chunks old."""
    return answers[(answers["question"] != "history") | (answers["age"] >= OLD)]


def score_by_age(answers: pd.DataFrame, seed: int) -> pd.DataFrame:
    """For the figure: the table of `count_by_stream` for the cards, by chunks, method and age.

    `panel` is "with recall" or "without recall".
    """
    cards = answers[answers["question"] == "history"]
    scores = count_by_stream(cards, ["chunks", "method", "age"], seed)
    return scores.assign(panel=np.where(scores["method"].isin(WITH), "with recall", "without recall"))


def summarise_recall(answers: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What each method answers and costs, by method in order of appearance; answers of one number of chunks.

    For every question (history: cards at least `OLD` chunks old) the share of exact answers, `<question>_low`,
    `<question>_high` and `<question>_n` as in `count_by_stream`. Then the maximum of `cache_bytes` (on the device),
    `archived_bytes` (on the host) and `index_bytes` (on the device), the mean of `recalled`, and the median of `ttft` (s).
    """
    counted = count_by_stream(old_cards(answers), ["method", "question"], seed)
    table = pd.DataFrame(index=answers["method"].unique())
    for question in ASKED:
        rows = counted[counted["question"] == question].set_index("method")
        for column, suffix in (("accuracy", ""), ("low", "_low"), ("high", "_high"), ("n", "_n")):
            table[question + suffix] = rows[column]
    costs = dict(cache_bytes="max", archived_bytes="max", index_bytes="max", recalled="mean", ttft="median")
    return table.join(answers.groupby("method").agg(costs))


def readable_recall(summary: pd.DataFrame) -> pd.DataFrame:
    """A `summarise_recall` table for display: a text for each share with its interval, and costs with their units."""
    table = pd.DataFrame({"method": summary.index})
    for question in ASKED:
        bounds = zip(*(summary[question + part] for part in ("", "_low", "_high")), strict=True)
        name = f"cards, {OLD}+ chunks old" if question == "history" else question
        table[name] = [with_interval(*found, ".3f") for found in bounds]
    for name, column, scale, digits in (
        ("device (MiB)", "cache_bytes", 2**-20, 1),
        ("host (MiB)", "archived_bytes", 2**-20, 1),
        ("index (MiB)", "index_bytes", 2**-20, 2),
        ("chunks recalled", "recalled", 1, 1),
        ("first token (ms)", "ttft", 1e3, 0),
    ):
        table[name] = [f"{scale * value:.{digits}f}" for value in summary[column]]
    return table


def attention_by_question(rankings: pd.DataFrame) -> pd.DataFrame:
    """For the figure: a table [kind, times], the attention of evicted chunks over an even share.

    "the right card": of the chunk asked for, where it was evicted. The other kinds are what the chunk ranked first gets when
    no evicted chunk holds the answer, by question.
    """
    cards = rankings[(rankings["question"] == "history") & rankings["found"]]
    parts = [pd.DataFrame(dict(kind="the right card", times=cards["times"]))]
    for question in ("now", "title", NEVER):
        others = rankings[rankings["question"] == question]
        parts.append(pd.DataFrame(dict(kind=f"ranked first, {question}", times=others["first_times"])))
    return pd.concat(parts, ignore_index=True)


def ranked_first(rankings: pd.DataFrame) -> pd.DataFrame:
    """What is ranked first when a card is asked for that was evicted: a table [first, questions], most frequent first."""
    cards = rankings[(rankings["question"] == "history") & rankings["found"]]
    return cards["first"].value_counts().rename_axis("first").rename("questions").reset_index()


def storage(bytes_per_token: int, sizes: dict[str, tuple[int, int]], fps: float, capacities: dict[str, int]) -> pd.DataFrame:
    """What an archive takes for a minute of video, and how many hours fit.

    bytes_per_token: keys and values in all layers. sizes: name -> width and height of the frames in pixels. fps: sampled frames
    per second. capacities: name -> bytes. A table [frames, tokens per minute, MB per minute, hours in <capacity> ...]; text
    tokens, less than 10 a chunk, are not counted.
    """
    rows = []
    for name, size in sizes.items():
        tokens = 60 * fps / FRAMES_PER_GRID * np.prod([round(pixels / PATCH) for pixels in size])
        per_minute = tokens * bytes_per_token
        hours = {f"hours in {text}": capacity / per_minute / 60 for text, capacity in capacities.items()}
        rows.append({"frames": name, "tokens per minute": int(tokens), "MB per minute": per_minute / 1e6} | hours)
    return pd.DataFrame(rows)
