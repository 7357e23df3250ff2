"""Verdicts of notebook 02, from a stream of four chunks with a budget of 300 tokens and a limit of 5,000 bytes."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from kvlib.lab.study.budgets import Limit
from kvlib.lab.verdicts.memory import Asked, Shrunk, Streams, conclude, judge
from kvlib.lab.video.calibration import Forecast

PASSED = dict.fromkeys(["P1", "P2", "P3a", "P3b", "P4", "P5a", "P5b", "P5c", "P6", "P7"], "PASS")
LIMIT = Limit(500, "more is not tried", pd.DataFrame(dict(budget=[200, 500, 600], chunks_in_window=[2, 5, 0])))
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def forecast(device=CPU) -> Forecast:
    return Forecast((2, 280, 560), (140, 280), device, 100, 110, 0.25, 1.0, token_bytes=10, budget=300)


def streams(**changed) -> Streams:
    """Without eviction memory ends at chunk 3 of 4; with it all of 4 chunks are streamed."""
    unbounded = pd.DataFrame(dict(event=["", "", "out of memory"]))
    bounded = pd.DataFrame(
        dict(peak_bytes=[4000, 4999, 4999, 4500], tokens_seen=[150, 300, 450, 600], tokens_dropped=0,
             cache_tokens=[150, 300, 290, 295], video_s=[1.0, 2.0, 3.0, 4.0], computing_s=[0.5, 1.0, 1.5, 2.0])
    )  # fmt: skip
    return replace(Streams(unbounded, bounded, 4, 5000, 0, forecast(), 0.5), **changed)


def asked(answer: str = "A Title", title: str = "A Title", **changed) -> Asked:
    stats = dict(total_evictions=2, total_tokens_evicted=305)
    info = dict(cache_seq_length=295, tokens_seen=600, tokens_dropped=0, chunks=3, cache_bytes=4500, eviction_stats=stats)
    return Asked(answer, info | changed, info | changed, title)


def shrunk(**changed) -> Shrunk:
    rows = dict(stage=["before shrink", "before shrink", "shrink", "after shrink", "after shrink"], chunk=[0, 1, 1, 2, 3])
    rows |= dict(cache_tokens=[150, 300, 140, 150, 145], cache_bytes=[4000, 9000, 5000, 2000, 2000])
    return Shrunk(pd.DataFrame(rows | changed), 150)


def all_inputs(**changed) -> tuple:
    return tuple((dict(streams=streams(), asked=asked(), limit=LIMIT, shrunk=shrunk()) | changed).values())


def test_all_is_as_it_should_be(judged):
    assert judged(judge, *all_inputs()) == PASSED


SHORTER = streams().bounded.iloc[:3]
NO_EVICTION = dict(total_evictions=0, total_tokens_evicted=305)
NOTHING_EVICTED = dict(total_evictions=2, total_tokens_evicted=0)


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        (dict(streams=streams(bounded=SHORTER)), ["P1"]),
        (dict(asked=asked(cache_seq_length=301)), ["P2"]),
        (dict(asked=asked(eviction_stats=NO_EVICTION)), ["P3a"]),
        (dict(asked=asked(eviction_stats=NOTHING_EVICTED)), ["P3b"]),
        (dict(streams=streams(limit_bytes=4999), shrunk=shrunk(cache_bytes=0)), ["P4"]),
        (dict(asked=asked(answer="")), ["P5a", "P5c"]),
        (dict(asked=replace(asked(), before=asked().before | dict(cache_seq_length=294))), ["P5b"]),
        (dict(asked=asked(answer="A Titel")), ["P5c"]),
        (dict(shrunk=shrunk(cache_tokens=[150, 300, 140, 151, 145])), ["P6"]),
        (dict(shrunk=shrunk(cache_bytes=[4000, 9000, 5001, 2000, 2000])), ["P6"]),
        (dict(shrunk=shrunk(chunk=[0, 1, 1, 2, 2])), ["P6"]),
        (dict(streams=streams(unbounded=pd.DataFrame(dict(event=["", "", ""])))), ["P7"]),
    ],
)
def test_a_criterion_fails(judged, changed, failed):
    assert judged(judge, *all_inputs(**changed)) == PASSED | dict.fromkeys(failed, "FAIL")


def test_the_bounds_themselves_pass(judged):
    assert judged(judge, *all_inputs(asked=asked(cache_seq_length=300))) == PASSED


def test_a_video_that_fits_into_the_budget_evicts_nothing(judged):
    nothing = dict(total_evictions=0, total_tokens_evicted=0)
    found = judged(judge, *all_inputs(asked=asked(tokens_seen=320, tokens_dropped=20, eviction_stats=nothing)))
    assert found == PASSED | {"P3a": "WARN", "P3b": "WARN"}


@pytest.mark.parametrize(("held", "verdict"), [(0, "WARN"), (1, "FAIL")])
def test_memory_need_not_end_before_a_video_that_fits_into_it(judged, held, verdict):
    whole = pd.DataFrame(dict(event=["", "", "", ""]))  # 600 tokens of 10 bytes
    inputs = all_inputs(streams=streams(unbounded=whole, limit_bytes=6000, held_bytes=held))
    assert judged(judge, *inputs) == PASSED | {"P7": verdict}


def test_another_question_or_model_has_no_title(judged):
    assert judged(judge, *all_inputs(asked=asked(title=""))) == PASSED | {"P5c": "WARN"}


def test_a_title_that_was_only_misread_is_no_fault_of_the_cache(judged):
    assert judged(judge, *all_inputs(asked=asked(answer="A Shore Title", title="A Short Title"))) == PASSED | {"P5c": "WARN"}


def test_a_stream_that_never_became_full_was_not_shrunk(judged, report, recorded):
    inputs = all_inputs(shrunk=shrunk(stage="before shrink"))
    assert judged(judge, *inputs) == PASSED | {"P6": "WARN"}
    judge(report, *inputs)
    assert recorded(report)[0]["P6"] == "neither budget nor memory became full"
    assert "shrink" not in conclude(report, streams(), LIMIT, shrunk(stage="before shrink"))


def test_what_was_measured(report, recorded):
    judge(report, *all_inputs())
    measured, values = recorded(report)
    assert measured == {
        "P1": "4 of 4",
        "P2": 295,
        "P3a": 2,
        "P3b": 305,
        "P4": 4999,
        "P5a": "A Title",
        "P5b": 295,
        "P5c": "A Title",
        "P6": 150,
        "P7": "chunk 3 of 4",
    }
    assert values == {
        "chunks remembered at the end": 3,
        "largest budget that held": 500,
        "chunks in that window": 5,
        "predicted for a chunk at the full budget": 0.25,
        "measured for a chunk, with decoding": 0.5,
        "predicted bytes of keys and values at the full budget": 3000,
        "measured bytes of the cache, with its free room": 4500,
        "tokens of the video": 600,
        "share of these tokens dropped": 0,
        "tokens kept for each second of video": 150,
        "tokens stored at the end": 295,
        "computation for each second of video": 0.5,
    }


@pytest.mark.parametrize(
    ("device", "kind"), [(CPU, "held by the cache (CPU: an explicit limit)"), (CUDA, "allocated on the device")]
)
def test_the_report_names_the_limits_and_which_bytes_are_counted(report, device, kind):
    judge(report, *all_inputs(streams=streams(forecast=forecast(device))))
    descriptions = {row["id"]: row["description"] for row in report.criteria}
    assert descriptions["P4"] == f"peak bytes {kind} < 5000"
    assert descriptions["P2"] == "cache length <= 300 at the end"


def test_no_budget_held(report, recorded):
    nothing = replace(LIMIT, budget=None, ended="the limit does not even hold the lowest")
    judge(report, *all_inputs(limit=nothing))
    values = recorded(report)[1]
    assert values["largest budget that held"] is None and values["chunks in that window"] == 0
    assert conclude(report, streams(unbounded=pd.DataFrame(dict(event=[""]))), nothing, shrunk()) == (
        "Without eviction memory lasted to chunk 1 of 4; with a budget of 300 tokens 4 of 4 chunks ran in 0.0 MiB. No budget "
        "held. What sets it: the limit does not even hold the lowest. After shrink() to 150 tokens the stream went on to chunk "
        "4."
    )


def test_the_conclusion(report):
    assert conclude(report, streams(), LIMIT, shrunk()) == report.conclusion == (
        "Without eviction memory ended at chunk 3 of 4; with a budget of 300 tokens 4 of 4 chunks ran in 0.0 MiB. The largest "
        "budget that was filled and held is 500 tokens; 03_periodic_ask now uses it. What sets it: more is not tried. After "
        "shrink() to 150 tokens the stream went on to chunk 4."
    )  # fmt: skip
