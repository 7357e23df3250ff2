"""The comparison of ways to recall: engines, questions, rankings and answers, on the tiny random model."""

import pytest
import torch

from kvlib import VideoStreamingInference
from kvlib.lab.study.clips import encode_and_decode
from kvlib.lab.study.methods import process_together
from kvlib.lab.study.recall import comparison, resuming
from kvlib.lab.study.recall.comparison import NEVER, RANDOM, TRUE, WITH, WITHOUT
from kvlib.lab.study.retention import draw_history_stream
from kvlib.lab.study.synthetic import COLORS, Scene, answer

BUDGET, CHUNKS, AGES = 460, 14, (2, 8)


@pytest.fixture(scope="module", autouse=True)
def short_answers():
    """The random model would go on to the limit of every answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "MAX_NEW_TOKENS", 2)
        yield


@pytest.fixture(scope="module")
def compared(model, processor, short_answers):
    return comparison.compare_recall(model, processor, BUDGET, CHUNKS, AGES, streams=2, seed=0)


@pytest.fixture(scope="module")
def streamed(model, processor):
    """The engines of the comparison after one stream, with its scenes and cards."""
    scenes, colors = draw_history_stream(CHUNKS, AGES, 0)
    frames = list(encode_and_decode(scenes))
    engines = comparison.make_engines(model, processor, BUDGET, frames[0])
    for chunk in frames:
        process_together(engines.values(), chunk)
    return engines, scenes, colors


def test_every_method_is_asked_the_same_about_every_stream(compared):
    answers, _ = compared
    assert set(answers["method"]) == {*WITHOUT, *WITH}
    assert answers.groupby(["stream", "method"]).size().eq(3 + len(AGES)).all()
    assert answers.groupby(["stream", "question", "age"])["truth"].nunique().eq(1).all()
    assert answers["unchanged"].all()
    assert answers["cache_tokens"].max() <= BUDGET


def test_each_way_recalls_what_its_name_says(compared):
    answers, _ = compared
    recalled = answers.groupby("method")["recalled"].agg(["min", "max"])
    assert recalled.loc[[*WITHOUT]].eq(0).all(axis=None)
    for way, number in (("recall 1", 1), ("recall 2", 2), ("recall 4", 4), (RANDOM, 2)):
        assert recalled.loc[way].eq(number).all(), way
    assert recalled.loc["recall auto", "max"] <= 2
    true = answers[answers["method"] == TRUE].groupby(["question", "age"])["recalled"].first()
    assert true["history", 8] == 1, "evicted"
    assert true["now", 0] == true["title", CHUNKS - 1] == true["history", 2] == true[NEVER, -1] == 0, "nothing to recall"


def test_room_for_recall_is_part_of_the_budget(streamed):
    engines, scenes, _ = streamed
    chunk = engines["remap"].cache_manager.chunks[-1].tokens
    for fitting in (2, 4):
        engine = engines[fitting]
        assert engine.eviction_config.max_cache_tokens == BUDGET
        assert engine.eviction_config.recall_tokens == fitting * chunk
        assert engine.get_cache_info()["cache_seq_length"] <= BUDGET - fitting * chunk


def test_random_chunks_are_evicted_ones_and_never_the_one_asked_for(streamed):
    engine = streamed[0][2]
    evicted, chosen = list(engine.cache_manager.state.evicted), set()
    assert evicted and not set(evicted) & {chunk.index for chunk in engine.cache_manager.chunks}
    for seed in range(50):
        drawn = comparison._recall(engine, RANDOM, evicted[0], seed)
        assert len(set(drawn)) == 2 and set(drawn) <= set(evicted) - {evicted[0]}
        chosen |= set(drawn)
    assert chosen == set(evicted) - {evicted[0]}
    assert comparison._recall(engine, TRUE, evicted[0], 0) == [evicted[0]]
    assert comparison._recall(engine, TRUE, -1, 0) == 0


def test_questions_know_the_chunk_with_their_answer():
    scenes, colors = draw_history_stream(CHUNKS, AGES, 3)
    asked = comparison.list_questions(scenes, colors)
    for row in asked:
        if row["question"] == NEVER:
            assert row["chunk"] == -1 and row["truth"].startswith("No ") and row["truth"].endswith("card seen")
            assert not any(color in row["text"] for color in colors.values())
        else:
            assert scenes[row["chunk"]].text == row["truth"]
    assert [row["question"] for row in asked] == ["now", "title", "history", "history", NEVER]
    assert asked[2]["truth"] == answer(scenes, "card", colors[2])


def test_the_ranking_is_that_of_recall_and_changes_nothing(streamed):
    engines, scenes, _ = streamed
    engine, question = engines[2], "What did the red card say?"
    before = engine.cache_manager.fingerprint()
    best = engine.ask(question, 1, do_sample=False, recall=1)[1]["recalled"][0]
    found = comparison.rank_evicted(engine, question, best["index"], scenes)
    assert engine.cache_manager.fingerprint() == before
    assert (found["rank"], found["first"], found["found"]) == (1, "the chunk asked for", True)
    assert found["times"] == found["first_times"] == pytest.approx(best["share"] * found["evicted"])
    other = next(number for number in engine.cache_manager.state.evicted if number != best["index"])
    lower = comparison.rank_evicted(engine, question, other, scenes)
    assert lower["rank"] > 1 and lower["times"] < found["times"]
    assert lower["first"] == comparison.describe(scenes[best["index"]])
    absent = comparison.rank_evicted(engine, question, CHUNKS - 1, scenes)
    assert not absent["found"] and absent["rank"] != absent["rank"]


def test_nothing_is_ranked_before_the_first_eviction(model, processor, frames):
    engine = VideoStreamingInference(model, processor, "cpu", archive="memory")
    engine.append_video_chunk(frames())
    assert comparison.rank_evicted(engine, "What?", 0, []) is None


def test_scenes_are_described_by_what_they_show():
    scene = Scene("a", "red", "", "flat", 0)
    shown = [comparison.describe(Scene(text, color, "", "flat", 0)) for text, color in (("a", "red"), ("a", None), ("", None))]
    assert comparison.describe(scene) == "another card"
    assert shown == ["another card", "text", "a blank screen"]


def test_a_color_must_be_left_that_is_never_shown(model, processor):
    with pytest.raises(ValueError, match=f"8 ages: give at most {len(COLORS) - 1}"):
        comparison.compare_recall(model, processor, BUDGET, 48, range(1, 9), streams=1, seed=0)


def test_a_changed_stream_is_told(model, processor, monkeypatch):
    ask = VideoStreamingInference.ask

    def careless(engine, *arguments, **options):
        found = ask(engine, *arguments, **options)
        if options.get("recall") == 4:
            engine.append_video_chunk(torch.zeros(2, 56, 84, 3, dtype=torch.uint8))
        return found

    monkeypatch.setattr(VideoStreamingInference, "ask", careless)
    answers, _ = comparison.compare_recall(model, processor, BUDGET, CHUNKS, AGES, streams=1, seed=0)
    assert set(answers.loc[~answers["unchanged"], "method"]) == {"recall 4"}


def test_a_resumed_stream_answers_as_an_undisturbed_one(model, processor, tmp_path):
    said, same = resuming.save_and_resume(model, processor, BUDGET, 10, AGES, 0, tmp_path / "stream")
    assert same
    assert said["undisturbed"].equals(said["resumed"])
    assert len(said) == 3 + len(AGES)
