"""The strategies of 04: each is watched as it says, the answers that count are the right ones, and the advice is computed."""

import pandas as pd
import pytest

from kvlib.lab.study import retention as study
from kvlib.lab.study.strategies import HOLD, Strategy, Viewer, best_pair, combine, strategies, try_strategies
from kvlib.lab.study.synthetic import QUESTIONS, render

BUDGET = 320
AGES = (1, 2)


def watched(model, processor, strategy, kind=Viewer, scenes=8) -> Viewer:
    shown, colors = study.draw_history_stream(scenes, AGES, 0)
    viewer = kind(model, processor, strategy, shown, colors)
    for index in range(HOLD * scenes):
        viewer.watch(index, render(shown[index // HOLD], 168, 84, 2), {})
    return viewer


def test_each_strategy_is_one_change_away_from_keep():
    made = strategies(BUDGET, 4, 56)
    for name, strategy in made.items():
        changed = [field for field, value in vars(strategy).items() if value != getattr(made["keep"], field)]
        assert len(changed) == (name != "keep"), name


def test_combining_makes_both_changes():
    made = strategies(BUDGET, 4, 56)
    both = combine(made["keep"], made["remap"], made["lower frame rate"])
    assert both == Strategy(BUDGET, position_mode="remap", every=HOLD)


def test_strategies_watch_what_they_say(model, processor):
    made = strategies(BUDGET, 4, 56)
    viewers = {name: watched(model, processor, strategy) for name, strategy in made.items()}
    seen = {name: viewer.engines[0].get_cache_info() for name, viewer in viewers.items()}
    assert seen["keep"]["tokens_seen"] == seen["remap"]["tokens_seen"] == seen["ask while it runs"]["tokens_seen"]
    assert seen["lower frame rate"]["tokens_seen"] < 0.6 * seen["keep"]["tokens_seen"]
    assert seen["lower resolution"]["tokens_seen"] < 0.8 * seen["keep"]["tokens_seen"]
    assert BUDGET < seen["larger budget"]["cache_seq_length"] <= 2 * BUDGET
    for name in set(made) - {"larger budget"}:
        assert seen[name]["cache_seq_length"] <= BUDGET, name
    modes = {
        name: viewer.engines[0].eviction_config.position_mode for name, viewer in viewers.items() if not made[name].windows
    }
    assert modes.pop("remap") == "remap"
    assert set(modes.values()) == {"keep"}
    assert viewers["keep"].peak_tokens == seen["keep"]["cache_seq_length"]
    assert viewers["keep"].fill == seen["keep"]["cache_seq_length"] / BUDGET
    assert viewers["overlapping windows"].peak_tokens > BUDGET, "two caches"
    assert viewers["overlapping windows"].fill <= 1


def test_windows_overlap_by_half_and_never_evict(model, processor):
    lengths = []

    class Noting(Viewer):
        def _ask(self, engine):
            lengths.append(engine.cache_manager.chunks_seen)
            super()._ask(engine)

    viewer = watched(model, processor, Strategy(BUDGET, windows=True), Noting)
    older, newer = sorted((engine.cache_manager.chunks_seen for engine in viewer.engines), reverse=True)
    assert len(lengths) >= 2, "every full window is asked before it is given up"
    assert len(set(lengths)) == 1, "each at the same length"
    assert abs(older - newer - lengths[0] / 2) <= 1
    assert all(engine.eviction_config is None for engine in viewer.engines)


def test_a_lower_resolution_also_counts_for_windows(model, processor):
    lower = watched(model, processor, Strategy(BUDGET, height=56, windows=True))
    full = watched(model, processor, Strategy(BUDGET, windows=True))
    assert len(lower.said) < len(full.said), "smaller chunks fill a window later"


def test_the_other_wording_is_asked(model, processor):
    viewer, asked = watched(model, processor, Strategy(BUDGET, phrasing=1), scenes=4), []
    engine = viewer.engines[0]
    engine.ask = lambda question, **_: asked.append(question) or ("", {"ttft": 0.0, "prompt_tokens": 1})
    viewer.answers()
    assert asked[:2] == [QUESTIONS["now"][1], QUESTIONS["title"][1]]


def test_the_best_pair_joins_the_two_that_answer_most_backward():
    made = strategies(BUDGET, 4, 56)
    backward = {"keep": [1, 1, 1], "remap": [1, 0, 0], "lower resolution": [0, 0, 0], "overlapping windows": [1, 1, 0]}
    table = pd.DataFrame([row for name, right in backward.items() for row in rows(name, 0, {"now": [1], "title": right})])
    pair = best_pair(table, made)
    assert pair == {"overlapping windows + remap": combine(made["keep"], made["overlapping windows"], made["remap"])}


def test_asking_while_it_runs_asks_at_the_interval(model, processor):
    viewer = watched(model, processor, Strategy(BUDGET, interval=4))
    assert len(viewer.said) == HOLD * 8 // 4
    assert viewer.ask_s > 0


def test_the_answer_that_counts(model, processor):
    shown, colors = study.draw_history_stream(8, AGES, 0)
    viewer = Viewer(model, processor, Strategy(BUDGET, interval=4), shown, colors)
    row = dict(age=0, ttft=0.0, prompt_tokens=1)
    first = [dict(row, question="now", answer="a"), dict(row, question="title", answer="b"),
             dict(row, question="history", answer="c")]  # fmt: skip
    last = [dict(row, question="now", answer="d"), dict(row, question="title", answer="e"),
            dict(row, question="history", answer="No red card seen")]  # fmt: skip
    viewer.said = [first, last]
    assert [viewer._choose(number) for number in range(3)] == ["d", "b", "c"]


def test_every_strategy_answers_every_question_of_every_stream(model, processor):
    made = {name: strategies(BUDGET, 4, 56)[name] for name in ("keep", "overlapping windows")}
    table = try_strategies(model, processor, made, 4, AGES, streams=2, seed=0)
    assert table.groupby(["stream", "strategy"]).size().eq(2 + len(AGES)).all()
    assert table.groupby(["stream", "question", "age"])["truth"].nunique().eq(1).all()
    summary = study.summarise(table, "strategy")
    assert list(summary.index) == ["keep", "overlapping windows"]
    shown = study.readable(summary).loc["keep"]
    row = summary.loc["keep"]
    assert shown["backward"] == f"{row['backward']:.2f} [{row['backward_low']:.2f}, {row['backward_high']:.2f}]"
    assert shown["MiB held"] == f"{row['cache_bytes'] / 2**20:.1f}"
    assert shown["per chunk (ms)"] == f"{1000 * row['seconds']:.0f}"
    assert (summary["seconds"] > 0).all()


def rows(name: str, stream: int, right: dict, **costs) -> list[dict]:
    return [dict(strategy=name, stream=stream, question=question, correct=bool(value), prompt_tokens=10, ttft=0.1, **costs)
            for question, values in right.items() for value in values]  # fmt: skip


def test_the_summary_counts_and_the_difference_is_paired():
    table = pd.DataFrame(
        rows("a", 0, {"now": [1], "title": [1], "history": [1, 0]}, cache_bytes=10)
        + rows("a", 1, {"now": [1], "title": [0], "history": [0, 0]}, cache_bytes=12)
        + rows("b", 0, {"now": [0], "title": [1], "history": [1, 1]}, cache_bytes=5)
        + rows("b", 1, {"now": [1], "title": [0], "history": [1, 0]}, cache_bytes=5)
    )
    summary = study.summarise(table, "strategy")
    assert summary.loc["a", ["now", "title", "history", "backward"]].tolist() == [1, 0.5, 0.25, pytest.approx(2 / 6)]
    assert summary.loc["a", "backward_n"] == 6
    assert summary.loc["a", "cache_bytes"] == 12
    difference = study.paired_difference(table, "strategy", "a", seed=0)
    assert difference.loc["b"].tolist() == [pytest.approx(1 / 3)] * 3, "both streams gain one of three: no spread"
    assert difference.loc["a"].tolist() == [0, 0, 0]
    alone = study.paired_difference(table[table["stream"] == 0], "strategy", "a", seed=0)
    assert alone.loc["b", "difference"] == pytest.approx(1 / 3)
    assert alone.loc["b", ["low", "high"]].isna().all(), "one stream has no spread"


@pytest.mark.parametrize(
    ("backward", "size", "seconds", "advice"),
    [
        ([0.2, 0.9, 0.9], [1, 1, 1], [1, 2, 3], "second"),  # the plain one is too bad, the third too slow
        ([0.2, 0.9, 0.9], [1, 2, 1.05], [1, 2, 3], "third"),  # the second takes twice the bytes
        ([0.85, 0.9, 0.9], [1, 1, 1], [1, 2, 3], "first"),  # within the interval of the best
    ],
)
def test_the_advice_is_the_cheapest_within_the_interval_of_the_best(backward, size, seconds, advice):
    summary = pd.DataFrame(
        {"now": 1.0, "now_low": 0.8, "backward": backward, "backward_low": [b - 0.1 for b in backward],
         "cache_bytes": size, "seconds": seconds}, index=["first", "second", "third"],
    )  # fmt: skip
    assert study.recommend(summary, "first") == advice
