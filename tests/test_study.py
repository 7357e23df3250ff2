"""The study's runs on a tiny random model: who watches what, what is asked, and what the tables say."""

import pandas as pd
import pytest
import torch

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.study import experiments
from kvlib.lab.study import retention as study
from kvlib.lab.study.synthetic import BLANK_ANSWER, COLORS, QUESTIONS, answer

AGES = (1, 3, 6)


def test_a_history_stream_shows_each_card_at_its_age():
    for seed in range(20):
        scenes, colors = study.draw_history_stream(12, AGES, seed)
        assert set(colors) == set(AGES)
        assert len(set(colors.values())) == len(AGES)
        for age, color in colors.items():
            assert scenes[11 - age].color == color
            assert answer(scenes, "card", color) == scenes[11 - age].text != ""
        assert sum(scene.color is not None for scene in scenes) == len(AGES)
        assert scenes[0].color is None
        assert answer(scenes, "now") != BLANK_ANSWER


def test_ages_beyond_the_stream_are_left_out_and_too_many_are_refused():
    assert set(study.draw_history_stream(5, (1, 3, 4, 40), 0)[1]) == {1, 3}, "the title, 4 chunks old, is no card"
    with pytest.raises(ValueError, match=f"9 ages.*{len(COLORS)} colours"):
        study.draw_history_stream(50, range(1, 10), 0)


def test_streams_repeat_by_seed():
    assert study.draw_history_stream(12, AGES, 4) == study.draw_history_stream(12, AGES, 4)
    assert study.draw_history_stream(12, AGES, 4) != study.draw_history_stream(12, AGES, 5)


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
def test_answers_are_judged_by_what_was_shown(wrong, share):
    scenes, colors = study.draw_history_stream(12, AGES, 2)
    rows = study.ask_all(Knowing(scenes, wrong), scenes, colors)
    assert [row["question"] for row in rows] == ["now", "title", "history", "history", "history"]
    assert [row["age"] for row in rows] == [0, 11, *AGES]
    for row in rows:
        assert row["correct"] == (share.get(row["question"], 1) == 1)


def test_all_contenders_watch_the_same_streams_within_the_budget(model, processor):
    engines = study.contenders(200, "remap")
    by_budget = {200: engines, 160: {"uniform": study.contenders(160, "remap")["uniform"]}}
    assert list(engines)[:3] == ["none", "sink_window", "uniform"]
    table = study.compare(model, processor, by_budget, (8, 10), AGES, streams=2, seed=0)
    assert set(table["contender"]) == set(engines)
    assert table.groupby(["stream", "question", "age"])["truth"].nunique().eq(1).all()
    assert table.groupby(["budget", "contender"]).size().nunique() == 1
    assert set(table["budget"]) == {200, 160}
    bounded = table[table["contender"] != "none"]
    assert (bounded["cache_tokens"] <= bounded["budget"]).all()
    assert (table[table["contender"] == "none"]["cache_tokens"] > 200).all()
    assert table["chunks"].between(8, 10).all()


def test_every_wrong_answer_gets_a_reason(model, processor):
    table = study.blame(model, processor, 200, (8, 10), AGES, streams=1, seed=0)
    assert len(table) == 5
    assert (table["reason"] == "right").eq(table["correct"]).all()
    assert table["reason"].str.split(":").str[0].isin(["right", "the model itself", "the position gap", "eviction"]).all()


def test_the_timeline_shows_who_is_alive(model, processor):
    table = study.timeline(model, processor, study.contenders(400, "remap"), 9, seed=0)
    assert "last_n" not in set(table["contender"])
    for _, rows in table.groupby(["contender", "moment"]):
        assert rows["alive"].min() == 0, "the sink"
        assert rows["alive"].max() == rows["moment"].iloc[0], "the newest"
    kept = table[table["moment"] == 8].groupby("contender")["alive"].agg(list)
    assert kept["none"] == list(range(9))
    assert kept["sink_window"] == [0, *range(9 - len(kept["sink_window"]) + 1, 9)]
    assert kept["uniform"] != kept["sink_window"]


def test_the_original_does_not_drift_and_a_chain_does():
    table = study.drift(1e4 ** (-torch.arange(0, 32, 2) / 32), (10, 1000), 17, seed=0).set_index(["method", "turns"])["error"]
    assert table["original", 1000] < 2**-8
    assert table["original", 1000] == pytest.approx(table["original", 10], rel=0.5)
    assert table["chain", 1000] > 3 * table["chain", 10]


def test_a_played_stream_can_be_watched(model, processor):
    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(400))
    frames = list(experiments.play(study.draw_history_stream(4, (1,), 0)[0]))
    assert [frame.shape for frame in frames] == [(2, 280, 560, 3)] * 4
    for frame in frames:
        engine.append_video_chunk(frame)
    assert len(engine.cache_manager.chunks) == 4


def test_attention_is_told_for_every_stream_and_mode(model, processor):
    table = study.attention(model, processor, 220, 8, streams=2, seed=0)
    assert table.groupby(["stream", "position_mode"]).size().nunique() == 1
    assert table.groupby(["stream", "position_mode", "layer", "head"])["share"].sum().to_numpy() == pytest.approx(1, abs=1e-5)
    reach = table[table["region"] == "sink"].groupby("position_mode")["distance"].mean()
    assert reach["remap"] < reach["keep"]


def test_contenders_on_a_video_are_asked_for_its_subtitles(model, processor, monkeypatch):
    monkeypatch.setattr(VideoStreamingInference, "ask", lambda *_, **__: ("A Short Clip", {"ttft": 0.1}))
    makers = {"sink_window": study.contenders(300, "remap")["sink_window"]}
    rows = study.compare_on_video(model, processor, makers, paths.DATA / "clips/short.mp4", 2, 2.0, 3)
    assert rows["time_s"].tolist()[:2] == [pytest.approx(2.5, abs=0.1)] * 2
    assert len(rows) == 2 * (12 // 3)
    first = rows.iloc[0]
    assert (first["truth"], first["correct"]) == ("A Short Clip", True), "the title is still on screen"
    assert (rows[rows["question"] == "title"]["truth"] == "A Short Clip").all()
    assert rows[rows["question"] == "title"]["cache_tokens"].max() <= 300


def test_a_title_is_right_until_the_first_wrong_answer():
    rows = [
        dict(contender="a", question="title", time_s=t, correct=c) for t, c in ((1, True), (2, True), (3, False), (4, True))
    ]
    rows += [dict(contender="b", question="title", time_s=t, correct=c) for t, c in ((1, False), (2, True))]
    rows += [dict(contender="a", question="now", time_s=9, correct=True)]
    found = study.last_right(pd.DataFrame(rows), "title")
    assert found.to_dict() == {"a": 2.0, "b": 0.0}
