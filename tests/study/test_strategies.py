"""The strategies of 04: each does what it says, and the right ones of its answers are scored."""

import pandas as pd

from kvlib.lab.study import statistics
from kvlib.lab.study.clips import render
from kvlib.lab.study.retention import draw_history_stream
from kvlib.lab.study.strategies import (
    CHUNKS_PER_SCENE,
    Strategy,
    StrategyRunner,
    best_pair,
    combine,
    strategies,
    try_strategies,
)
from kvlib.lab.study.synthetic import QUESTIONS

BUDGET = 320
AGES = (1, 2)


def processed(model, processor, strategy, kind=StrategyRunner, scenes=8) -> StrategyRunner:
    shown, colors = draw_history_stream(scenes, AGES, 0)
    runner = kind(model, processor, strategy, shown, colors)
    for index in range(CHUNKS_PER_SCENE * scenes):
        runner.process(index, render(shown[index // CHUNKS_PER_SCENE], 168, 84, 2), {})
    return runner


def test_each_strategy_is_one_change_away_from_keep():
    made = strategies(BUDGET, 4, 56)
    for name, strategy in made.items():
        changed = [field for field, value in vars(strategy).items() if value != getattr(made["keep"], field)]
        assert len(changed) == (name != "keep"), name


def test_combining_makes_both_changes():
    made = strategies(BUDGET, 4, 56)
    both = combine(made["keep"], made["remap"], made["lower frame rate"])
    assert both == Strategy(BUDGET, position_mode="remap", every=CHUNKS_PER_SCENE)


def test_strategies_process_what_they_say(model, processor):
    made = strategies(BUDGET, 4, 56)
    runners = {name: processed(model, processor, strategy) for name, strategy in made.items()}
    seen = {name: runner.engines[0].get_cache_info() for name, runner in runners.items()}
    assert seen["keep"]["tokens_seen"] == seen["remap"]["tokens_seen"] == seen["ask while it runs"]["tokens_seen"]
    assert seen["lower frame rate"]["tokens_seen"] < 0.6 * seen["keep"]["tokens_seen"]
    assert seen["lower resolution"]["tokens_seen"] < 0.8 * seen["keep"]["tokens_seen"]
    assert BUDGET < seen["larger budget"]["cache_seq_length"] <= 2 * BUDGET
    for name in set(made) - {"larger budget"}:
        assert seen[name]["cache_seq_length"] <= BUDGET, name
    modes = {
        name: runner.engines[0].eviction_config.position_mode for name, runner in runners.items() if not made[name].windows
    }
    assert modes.pop("remap") == "remap"
    assert set(modes.values()) == {"keep"}
    assert runners["keep"].peak_tokens == seen["keep"]["cache_seq_length"]
    assert runners["keep"].fill == seen["keep"]["cache_seq_length"] / BUDGET
    assert runners["overlapping windows"].peak_tokens > BUDGET, "two caches"
    assert runners["overlapping windows"].fill <= 1


def test_windows_overlap_by_half_and_never_evict(model, processor):
    lengths = []

    class Noting(StrategyRunner):
        def _ask(self, engine):
            lengths.append(engine.cache_manager.chunks_seen)
            super()._ask(engine)

    runner = processed(model, processor, Strategy(BUDGET, windows=True), Noting)
    older, newer = sorted((engine.cache_manager.chunks_seen for engine in runner.engines), reverse=True)
    assert len(lengths) >= 2, "every full window is asked before it is given up"
    assert len(set(lengths)) == 1, "each at the same length"
    assert abs(older - newer - lengths[0] / 2) <= 1
    assert all(engine.eviction_config is None for engine in runner.engines)


def test_a_lower_resolution_also_counts_for_windows(model, processor):
    lower = processed(model, processor, Strategy(BUDGET, height=56, windows=True))
    full = processed(model, processor, Strategy(BUDGET, windows=True))
    assert len(lower.said) < len(full.said), "smaller chunks fill a window later"


def test_the_other_wording_is_asked(model, processor):
    runner, asked = processed(model, processor, Strategy(BUDGET, phrasing=1), scenes=4), []
    engine = runner.engines[0]
    engine.ask = lambda question, **_: asked.append(question) or ("", {"ttft": 0.0, "prompt_tokens": 1})
    runner.answers()
    assert asked[:2] == [QUESTIONS["now"][1], QUESTIONS["title"][1]]


def test_the_best_pair_joins_the_two_that_answer_most_backward():
    made = strategies(BUDGET, 4, 56)
    backward = {"keep": [1, 1, 1], "remap": [1, 0, 0], "lower resolution": [0, 0, 0], "overlapping windows": [1, 1, 0]}
    table = pd.DataFrame(
        [
            dict(strategy=name, question=question, correct=bool(value), prompt_tokens=10, ttft=0.1)
            for name, right in backward.items()
            for question, values in (("now", [1]), ("title", right))
            for value in values
        ]
    )
    pair = best_pair(table, made)
    assert pair == {"overlapping windows + remap": combine(made["keep"], made["overlapping windows"], made["remap"])}


def test_asking_while_it_runs_asks_at_the_interval(model, processor):
    runner = processed(model, processor, Strategy(BUDGET, interval=4))
    assert len(runner.said) == CHUNKS_PER_SCENE * 8 // 4
    assert runner.ask_s > 0


def test_the_answer_that_is_scored(model, processor):
    shown, colors = draw_history_stream(8, AGES, 0)
    runner = StrategyRunner(model, processor, Strategy(BUDGET, interval=4), shown, colors)
    row = dict(age=0, ttft=0.0, prompt_tokens=1)
    first = [dict(row, question="now", answer="a"), dict(row, question="title", answer="b"),
             dict(row, question="history", answer="c")]  # fmt: skip
    last = [dict(row, question="now", answer="d"), dict(row, question="title", answer="e"),
            dict(row, question="history", answer="No red card seen")]  # fmt: skip
    runner.said = [first, last]
    assert [runner._choose(number) for number in range(3)] == ["d", "b", "c"]


def test_every_strategy_answers_every_question_of_every_stream(model, processor):
    made = {name: strategies(BUDGET, 4, 56)[name] for name in ("keep", "overlapping windows")}
    table = try_strategies(model, processor, made, 4, AGES, streams=2, seed=0)
    assert table.groupby(["stream", "strategy"]).size().eq(2 + len(AGES)).all()
    assert table.groupby(["stream", "question", "age"])["truth"].nunique().eq(1).all()
    summary = statistics.summarise(table, "strategy", seed=0)
    assert list(summary.index) == ["keep", "overlapping windows"]
    shown = statistics.readable(summary).loc["keep"]
    row = summary.loc["keep"]
    assert shown["backward"] == f"{row['backward']:.2f}", "two streams have no interval"
    assert shown["MiB held"] == f"{row['cache_bytes'] / 2**20:.1f}"
    assert shown["per chunk (ms)"] == f"{1000 * row['seconds']:.0f}"
    assert (summary["seconds"] > 0).all()


def test_recall_stays_within_the_budget_and_asks_with_recall(model, processor):
    runner, recalled = processed(model, processor, strategies(BUDGET, 4, 56)["recall"]), []
    engine = runner.engines[0]
    ask = engine.ask

    def noting(*arguments, **options):
        said, metrics = ask(*arguments, **options)
        recalled.append(len(metrics["recalled"]))
        return said, metrics

    engine.ask = noting
    runner.answers()
    assert recalled == [2] * (2 + len(AGES))
    assert engine.get_cache_info()["cache_seq_length"] <= BUDGET - engine.eviction_config.recall_tokens < BUDGET
    assert engine.get_cache_info()["archived_chunks"] == 16
