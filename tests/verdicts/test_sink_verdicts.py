"""Verdicts of notebook 01, from tables of two configurations."""

from dataclasses import replace

import pandas as pd
import pytest

from kvlib.lab.verdicts.sinks import Results, conclude, judge

PASSED = dict.fromkeys(["A1", "A2", "A3", "A4", "A5", "A6", "A7"], "PASS")
BUDGET = 1000


def results(sinks=None, counts=None, chunks: int = 3, **sizes) -> Results:
    """Two chunk sizes at one height, all as it should be but for `sinks`, `counts` (columns) and `sizes` (sink_tokens)."""
    tokens = sizes.get("tokens", [218, 418])
    table = dict(configuration=["2 frames", "4 frames"], chunk_frames=[2, 4], height=280, sink_tokens=tokens)
    table |= dict(first_length=tokens, window_tokens=[BUDGET - size for size in tokens], evictions=0)
    table |= dict(mean_recorded=[207.0, 407.0], mean_real=[207.0, 407.0]) | (sinks or {})
    dropped = dict(chunk_frames=[2, 8, 8], drop_static=[0, 0, 0.03], dropped=[0, 0, 450], dropped_of_first=0)
    dropped |= dict(dropped_share=[0, 0, 0.712], tokens_per_s=[57.9, 52.67, 15.17]) | (counts or {})
    increments = [dict(configuration=name, chunk=chunk) for name in table["configuration"] for chunk in range(chunks)]
    return Results(pd.DataFrame(increments), pd.DataFrame(table), pd.DataFrame(dropped), BUDGET)


def test_all_is_as_it_should_be(judged):
    assert judged(judge, results()) == PASSED


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(sinks=dict(first_length=[218, 419])), "A1"),
        (dict(sinks=dict(window_tokens=[782, 581])), "A2"),
        (dict(sinks=dict(mean_recorded=[207.0, 417.1])), "A3"),
        (dict(sinks=dict(mean_recorded=[207.0, 396.9])), "A3"),
        (dict(tokens=[218, 218]), "A4"),
        (dict(sinks=dict(evictions=[0, 1])), "A5"),
        (dict(tokens=[128, 418]), "A6"),
        (dict(counts=dict(dropped=[1, 0, 450])), "A7"),
        (dict(counts=dict(dropped_of_first=[0, 0, 1])), "A7"),
    ],
)
def test_one_criterion_fails(judged, changed, failed):
    assert judged(judge, results(**changed)) == PASSED | {failed: "FAIL"}


@pytest.mark.parametrize("changed", [dict(sinks=dict(mean_recorded=[207.0, 417.0])), dict(tokens=[129, 418])])
def test_the_bounds_themselves_pass(judged, changed):
    assert judged(judge, results(**changed)) == PASSED


def test_a_video_of_one_chunk_has_no_later_chunks_to_judge(judged):
    alike = dict(mean_recorded=[0.0, 100.0], mean_real=0.0)  # what would fail otherwise
    assert judged(judge, results(sinks=alike, tokens=[218, 218], chunks=1)) == PASSED | {"A3": "WARN", "A4": "WARN"}


def test_every_configuration_must_have_a_later_chunk(judged):
    found = results(tokens=[218, 218])
    longer = found.increments[(found.increments["configuration"] == "2 frames") | (found.increments["chunk"] == 0)]
    assert judged(judge, replace(found, increments=longer)) == PASSED | {"A3": "WARN", "A4": "WARN"}


def test_other_sizes_are_looked_for_at_every_height(judged):
    found = results()
    lower = found.sinks.assign(height=140, sink_tokens=150, first_length=150, window_tokens=BUDGET - 150)
    both = pd.concat([found.sinks, lower])
    assert judged(judge, replace(found, sinks=both)) == PASSED | {"A4": "FAIL"}


def test_what_was_measured(report, recorded):
    running_mean = 50 + 1 / 3 + 7e-15  # a running mean of 50, 50, 51
    judge(report, results(sinks=dict(mean_recorded=[running_mean, 407.0], mean_real=[50 + 1 / 3, 407.0])))
    measured, values = recorded(report)
    assert measured == {
        "A1": [218, 418],
        "A2": [782, 582],
        "A3": 0,  # a rounding error is no difference
        "A4": {2: [218], 4: [418]},
        "A5": 0,
        "A6": 218,
        "A7": 0,
    }
    assert values == {}


@pytest.mark.parametrize(("changed", "found"), [({}, 2), (dict(first_length=[218, 419]), 1)])
def test_the_conclusion(report, changed, found):
    assert conclude(report, results(sinks=changed)) == report.conclusion == (
        f"The sink is the whole first chunk in {found} of 2 configurations; it spans 218 to 418 tokens over 2 values, so no "
        "constant fits all of them. drop_static drops at most 71% of the tokens, in chunks of 8 frames at threshold 0.03: "
        "15.2 tokens a second of video are left of 52.7."
    )  # fmt: skip
