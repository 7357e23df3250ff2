"""Tables of the study of recall, from answers whose numbers are known by counting."""

import numpy as np
import pandas as pd
import pytest

from kvlib.lab.study.recall import tables


def answers(method: str, stream: int, right: dict, chunks: int = 48) -> list[dict]:
    """right: (question, age) -> whether the answer is right."""
    costs = dict(cache_bytes=3 * 2**20 + stream, archived_bytes=2**21, index_bytes=2**19, recalled=2 * stream, ttft=0.02)
    return [
        dict(stream=stream, chunks=chunks, method=method, question=question, age=age, correct=correct, **costs)
        for (question, age), correct in right.items()
    ]


TWO = pd.DataFrame(
    answers("remap", 0, {("now", 0): True, ("title", 47): True, ("history", 3): True, ("history", 10): False})
    + answers("remap", 1, {("now", 0): False, ("title", 47): True, ("history", 3): True, ("history", 10): False})
    + answers("recall 2", 0, {("now", 0): True, ("title", 47): True, ("history", 3): True, ("history", 10): True})
    + answers("recall 2", 1, {("now", 0): True, ("title", 47): True, ("history", 3): False, ("history", 10): False})
    + answers("recall 2", 0, {("never shown", -1): True})
)


def test_young_cards_are_left_out_and_nothing_else():
    kept = tables.old_cards(TWO)
    assert len(kept) == len(TWO) - 4
    assert set(kept.loc[kept["question"] == "history", "age"]) == {10}
    assert set(kept["question"]) == set(TWO["question"])


def test_the_summary_counts_old_cards_and_takes_the_largest_sizes():
    summary = tables.summarise_recall(TWO, seed=0)
    assert summary.index.tolist() == ["remap", "recall 2"]
    assert summary["now"].tolist() == [0.5, 1]
    assert summary["history"].tolist() == [0, 0.5]
    assert summary["history_n"].tolist() == [2, 2]
    assert np.isnan(summary.loc["remap", "never shown"]) and summary.loc["recall 2", "never shown"] == 1
    assert summary["cache_bytes"].tolist() == [3 * 2**20 + 1] * 2
    shown = tables.readable_recall(summary).set_index("method").loc["recall 2"]
    assert shown["cards, 10+ chunks old"] == "0.500", "two streams have no interval"
    assert (shown["device (MiB)"], shown["host (MiB)"], shown["index (MiB)"]) == ("3.0", "2.0", "0.50")
    assert (shown["first token (ms)"], shown["chunks recalled"]) == ("20", "0.9")  # five answers of stream 0, four of stream 1


def test_scores_by_age_say_which_panel_they_belong_to():
    scores = tables.score_by_age(TWO, seed=0).set_index(["method", "age"])
    assert scores.loc[("remap", 10), "accuracy"] == 0 and scores.loc[("recall 2", 10), "accuracy"] == 0.5
    assert scores["streams"].eq(2).all()
    assert set(scores.loc["remap", "panel"]) == {"without recall"}
    assert set(scores.loc["recall 2", "panel"]) == {"with recall"}


RANKINGS = pd.DataFrame(
    [
        ("history", True, 1, 9.0, 9.0, "the chunk asked for"),
        ("history", True, 3, 2.0, 4.0, "another card"),
        ("history", True, 1, 8.0, 8.0, "the chunk asked for"),
        ("history", False, np.nan, np.nan, 3.0, "another card"),
        ("now", False, np.nan, np.nan, 1.5, "text"),
        ("never shown", False, np.nan, np.nan, 2.5, "another card"),
    ],
    columns=["question", "found", "rank", "times", "first_times", "first"],
)


def test_attention_is_that_of_evicted_cards_and_of_the_first_where_no_chunk_answers():
    found = tables.attention_by_question(RANKINGS).groupby("kind", sort=False)["times"].agg(list).to_dict()
    assert found == {
        "the right card": [9.0, 2.0, 8.0],
        "ranked first, now": [1.5],
        "ranked first, never shown": [2.5],
    }


def test_what_is_ranked_first_is_counted_for_evicted_cards():
    found = tables.ranked_first(RANKINGS)
    assert found.to_dict("records") == [
        {"first": "the chunk asked for", "questions": 2},
        {"first": "another card", "questions": 1},
    ]


def test_storage_of_a_minute_is_what_a_hand_computation_gives():
    found = tables.storage(36_864, {"small": (448, 252), "full": (1920, 1080)}, 2.0, {"64 GB": 64 * 10**9}).set_index("frames")
    assert found.loc["small", "tokens per minute"] == 60 * 16 * 9  # 60 grids of two frames, 16 x 9 tokens each
    assert found.loc["full", "tokens per minute"] == 60 * 69 * 39
    assert found.loc["small", "MB per minute"] == pytest.approx(8_640 * 36_864 / 1e6)
    assert found.loc["small", "hours in 64 GB"] == pytest.approx(64e9 / (8_640 * 36_864) / 60)
