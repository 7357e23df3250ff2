"""The retention study on a tiny random model: what every method processes and is asked, and what the tables say."""

from itertools import product

import pandas as pd
import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import retention, scoring
from kvlib.lab.study.clips import encode_and_decode
from kvlib.lab.study.methods import RecomputeRecent, methods
from kvlib.lab.study.synthetic import BLANK_ANSWER, COLORS, QUESTIONS, answer
from kvlib.lab.video.lines import normalise
from kvlib.lab.video.source import VideoSource

AGES = (1, 3, 6)


def test_a_history_stream_shows_each_card_at_its_age():
    for seed in range(20):
        scenes, colors = retention.draw_history_stream(12, AGES, seed)
        assert set(colors) == set(AGES)
        assert len(set(colors.values())) == len(AGES)
        for age, color in colors.items():
            assert scenes[11 - age].color == color
            assert answer(scenes, "card", color) == scenes[11 - age].text != ""
        assert sum(scene.color is not None for scene in scenes) == len(AGES)
        assert scenes[0].color is None
        assert answer(scenes, "now") != BLANK_ANSWER


def test_ages_beyond_the_stream_are_left_out_and_too_many_are_refused():
    assert set(retention.draw_history_stream(5, (1, 3, 4, 40), 0)[1]) == {1, 3}, "the title, 4 chunks old, is no card"
    with pytest.raises(ValueError, match=f"9 ages.*{len(COLORS)} colours"):
        retention.draw_history_stream(50, range(1, 10), 0)


def test_streams_repeat_by_seed():
    assert retention.draw_history_stream(12, AGES, 4) == retention.draw_history_stream(12, AGES, 4)
    assert retention.draw_history_stream(12, AGES, 4) != retention.draw_history_stream(12, AGES, 5)


class Knowing:
    """Answers every question of a stream rightly, but for one kind."""

    def __init__(self, scenes, wrong):
        self.scenes, self.wrong = scenes, wrong

    def ask(self, question, **_):
        for kind, phrasings in QUESTIONS.items():
            for color in [None, *COLORS]:
                if question == phrasings[0].format(color=color):
                    said = "no idea" if kind == self.wrong else answer(self.scenes, kind, color).replace("\n", "  ")
                    return said, {"ttft": 0.1, "prompt_tokens": 5}
        raise AssertionError(question)


@pytest.mark.parametrize(
    ("wrong", "share"), [(None, {}), ("card", {"history": 0}), ("title", {"title": 0}), ("now", {"now": 0})]
)
def test_answers_are_compared_with_what_was_shown(wrong, share):
    scenes, colors = retention.draw_history_stream(12, AGES, 2)
    rows = retention.ask_all(Knowing(scenes, wrong), scenes, colors)
    assert [row["question"] for row in rows] == ["now", "title", "history", "history", "history"]
    assert [row["age"] for row in rows] == [0, 11, *AGES]
    for row in rows:
        assert row["correct"] == (share.get(row["question"], 1) == 1)


def test_all_methods_process_the_same_streams_within_the_budget(model, processor):
    engines = methods(200, "remap")
    by_budget = {200: engines, 160: {"uniform": methods(160, "remap")["uniform"]}}
    assert list(engines)[:3] == ["none", "sink_window", "uniform"]
    table = retention.compare(model, processor, by_budget, (8, 10), AGES, streams=2, seed=0)
    assert set(table["method"]) == set(engines)
    assert table.groupby(["stream", "question", "age"])["truth"].nunique().eq(1).all()
    assert table.groupby(["budget", "method"]).size().nunique() == 1
    assert set(table["budget"]) == {200, 160}
    bounded = table[table["method"] != "none"]
    assert (bounded["cache_tokens"] <= bounded["budget"]).all()
    assert (table[table["method"] == "none"]["cache_tokens"] > 200).all()
    assert table["chunks"].between(8, 10).all()


def test_every_wrong_answer_gets_a_reason(model, processor):
    table = retention.attribute_errors(model, processor, 200, (8, 10), AGES, streams=1, seed=0)
    assert len(table) == 5
    assert (table["reason"] == "right").eq(table["correct"]).all()
    assert table["reason"].str.split(":").str[0].isin(["right", "the model itself", "the position gap", "eviction"]).all()


def test_a_wrong_answer_is_attributed_by_its_counterfactuals(model, processor, monkeypatch):
    cases = list(product([True, False], repeat=3))  # right as it is, at contiguous positions, with nothing evicted
    contiguous = []

    def at_contiguous_positions(engine):
        contiguous.append(object())
        return contiguous[-1]

    def asked(engine, scenes, colors):
        asked_now = 1 if engine in contiguous else 2 if engine.eviction_config is None else 0
        return [dict(question=str(number), age=0, correct=case[asked_now]) for number, case in enumerate(cases)]

    monkeypatch.setattr(retention, "at_contiguous_positions", at_contiguous_positions)
    monkeypatch.setattr(retention, "ask_all", asked)
    table = retention.attribute_errors(model, processor, 200, (4, 4), (1,), streams=1, seed=0)
    assert table["correct"].tolist() == [True] * 4 + [False] * 4
    reasons = ["right"] * 4 + ["the position gap"] * 2 + ["eviction", "the model itself"]
    assert table["reason"].str.split(":").str[0].tolist() == reasons


def test_the_timeline_shows_which_chunks_are_in_the_cache(model, processor):
    table = retention.timeline(model, processor, methods(400, "remap"), 9, seed=0)
    assert "last_n" not in set(table["method"])
    for _, rows in table.groupby(["method", "moment"]):
        assert rows["alive"].min() == 0, "the sink"
        assert rows["alive"].max() == rows["moment"].iloc[0], "the newest"
    kept = table[table["moment"] == 8].groupby("method")["alive"].agg(list)
    assert kept["none"] == list(range(9))
    assert kept["sink_window"] == [0, *range(9 - len(kept["sink_window"]) + 1, 9)]
    assert kept["uniform"] != kept["sink_window"]


def test_the_original_does_not_drift_and_a_chain_does():
    table = retention.drift(1e4 ** (-torch.arange(0, 32, 2) / 32), (10, 1000), 17, seed=0).set_index(["method", "turns"])[
        "error"
    ]
    assert table["original", 1000] < 2**-8
    assert table["original", 1000] == pytest.approx(table["original", 10], rel=0.5)
    assert table["chain", 1000] > 3 * table["chain", 10]


def test_an_encoded_and_decoded_stream_can_be_appended(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(400, position_mode="remap"))
    frames = list(encode_and_decode(retention.draw_history_stream(4, (1,), 0)[0]))
    assert [frame.shape for frame in frames] == [(2, 280, 560, 3)] * 4
    for frame in frames:
        engine.append_video_chunk(frame)
    assert len(engine.cache_manager.chunks) == 4


def test_attention_is_told_for_every_stream_and_mode(model, processor):
    table = retention.attention(model, processor, 220, 8, streams=2, seed=0)
    assert table.groupby(["stream", "position_mode"]).size().nunique() == 1
    assert table.groupby(["stream", "position_mode", "layer", "head"])["share"].sum().to_numpy() == pytest.approx(1, abs=1e-5)
    reach = table[table["region"] == "sink"].groupby("position_mode")["distance"].mean()
    assert reach["remap"] < reach["keep"]


def test_methods_on_a_video_are_asked_for_its_subtitles(model, processor, monkeypatch):
    monkeypatch.setattr(VideoStreamingInference, "ask", lambda *_, **__: ("A Short Clip", {"ttft": 0.1}))
    makers = {"sink_window": methods(300, "remap")["sink_window"]}
    rows = retention.compare_on_video(model, processor, makers, VideoSource(paths.DATA / "clips/short.mp4"), 3)
    assert rows["time_s"].tolist()[:2] == [pytest.approx(2.5, abs=0.1)] * 2
    assert len(rows) == 2 * (12 // 3)
    first = rows.iloc[0]
    assert (first["truth"], first["correct"]) == ("A Short Clip", True), "the title is still on screen"
    assert (rows[rows["question"] == "title"]["truth"] == "A Short Clip").all()
    assert rows[rows["question"] == "title"]["cache_tokens"].max() <= 300
    assert rows["video_s"].tolist()[::2] == [3, 6, 9, 12] and (rows["tokens_dropped"] == 0).all()
    assert rows["tokens_seen"].tolist()[::2] == [38 + 60 * chunks for chunks in (3, 6, 9, 12)]


def test_methods_on_a_video_drop_what_stands_still_apart_from_the_baseline(model, processor, monkeypatch):
    monkeypatch.setattr(VideoStreamingInference, "ask", lambda *_, **__: ("", {"ttft": 0.1}))
    monkeypatch.setattr(RecomputeRecent, "ask", lambda *_, **__: ("", {"ttft": 0.1}))
    makers = {name: make for name, make in methods(300, "remap", 0.03).items() if name in ("uniform", "last_n")}
    rows = retention.compare_on_video(model, processor, makers, VideoSource(paths.DATA / "clips/short.mp4", 6), 2)
    uniform, last = (rows[rows["method"] == name] for name in makers)
    assert uniform["tokens_seen"].iloc[-1] == 38 + 4 * 160 and uniform["tokens_dropped"].iloc[-1] > 0
    assert last[["tokens_seen", "tokens_dropped"]].isna().all(axis=None)


def test_a_title_is_right_until_the_first_wrong_answer():
    rows = [dict(method="a", question="title", time_s=t, correct=c) for t, c in ((1, True), (2, True), (3, False), (4, True))]
    rows += [dict(method="b", question="title", time_s=t, correct=c) for t, c in ((1, False), (2, True))]
    rows += [dict(method="a", question="now", time_s=9, correct=True)]
    found = retention.last_right(pd.DataFrame(rows), "title")
    assert found.to_dict() == {"a": 2.0, "b": 0.0}


def test_both_modes_process_the_same_streams(model, processor):
    answers = retention.accuracy_over_length(model, processor, [2, 4], streams=1, budget=200, seed=0)
    assert len(answers) == 8
    assert not answers["truth"].eq("No text visible").any()
    assert answers.groupby(["chunks", "question"])["truth"].nunique().eq(1).all()
    assert answers["first_eviction"].eq(3).all()  # 98 + 60 tokens fit into 200, 60 more do not


def test_sharing_the_vision_tower_and_the_cores_changes_no_answer(model, processor):
    together = retention.accuracy_over_length(model, processor, [4], streams=3, budget=200, seed=0)
    for mode in ("keep", "remap"):
        alone = retention.accuracy_over_length(model, processor, [4], streams=3, budget=200, seed=0, modes=(mode,))
        rows = together[together["position_mode"] == mode].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, rows)


def test_no_true_answer_of_the_study_is_empty_or_says_that_there_is_nothing():
    """The rule for empty truths in `exact_match` is for subtitles alone: here an exact answer is the same text, no more."""
    for seed in range(200):
        scenes, colors = retention.draw_history_stream(12, AGES, seed)
        truths = [answer(scenes, "now"), answer(scenes, "title"), *(answer(scenes, "card", c) for c in colors.values())]
        for truth in truths:
            assert normalise(truth) and truth != BLANK_ANSWER and not truth.endswith("card seen")
            assert scoring.exact_match(truth, truth) and not scoring.exact_match(BLANK_ANSWER, truth)


@pytest.mark.parametrize("seed", range(5))
def test_repeated_colors_make_the_question_harder_and_change_no_answer(seed):
    ages = (4, 8, 12)
    scenes, colors = retention.draw_history_stream(20, ages, seed)
    harder = retention.repeat_colors(scenes, colors, seed)
    assert harder == retention.repeat_colors(scenes, colors, seed) and scenes[0].color is None
    assert harder[0].color in colors.values() and [scene.text for scene in harder] == [scene.text for scene in scenes]
    for age, color in colors.items():
        shown = [at for at, scene in enumerate(harder) if scene.color == color]
        assert shown[-1] == 19 - age and (len(shown) - (harder[0].color == color)) == 2
        assert answer(harder, "card", color) == answer(scenes, "card", color) == scenes[19 - age].text
    assert answer(harder, "title") == answer(scenes, "title")
