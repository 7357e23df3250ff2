"""Answers are scored against hand-made subtitles whose scores are known by counting."""

import math

import pandas as pd
import pytest

from kvlib.lab.study.scoring import (
    exact_match,
    score_answers,
    score_lines,
    score_subtitles,
    summarise,
    summarise_subtitles,
)
from kvlib.lab.video.subtitles import Subtitle

SONG = [
    Subtitle(0, 2, "Row your boat"),
    Subtitle(2, 4, "Gently down\nthe stream"),
    Subtitle(6, 8, "Merrily"),
    Subtitle(8, 10, "Row your boat"),
    Subtitle(10, 12, "But a dream"),
]


def asks(*pairs):
    return pd.DataFrame(pairs, columns=["time_s", "answer"])


@pytest.mark.parametrize(
    ("answer", "truth", "exact"),
    [
        ("Row your boat", "Row  your\nboat", True),
        ("row your boat", "Row your boat", False),
        ("No text visible", "", True),
        ("", "", True),
        ("Row", "", False),
        ("No text visible", "Row", False),
        ("", "Row", False),
        # Texts that read like "no text" are compared like every other text when they are the truth.
        ("No text visible", "No text visible", True),
        ("No text.", "No text visible", False),
        (".", ".", True),
        ("No text visible", ".", False),
        ("No red card seen", "No red card seen", True),
    ],
)
def test_exact_is_the_same_text_or_no_text_where_there_is_none(answer, truth, exact):
    assert exact_match(answer, truth) == exact
    scored = score_answers([Subtitle(0, 1, truth)] if truth else SONG, asks((0.5 if truth else 5, answer)))
    assert scored["exact"].tolist() == [exact]
    assert not truth or (scored["cer"][0] == 0) == exact


def test_answers_are_exact_up_to_white_space_and_cer_counts_edits():
    scored = score_answers(
        SONG,
        asks((1, "Row your goat"), (3, "Gently down the stream"), (5, "No text visible."), (5, "ghost"), (7, "No text")),
    )
    assert list(scored["exact"]) == [False, True, True, False, False]
    assert scored["cer"][0] == pytest.approx(1 / 13)
    assert scored["cer"][1] == 0
    assert math.isnan(scored["cer"][2]) and math.isnan(scored["cer"][3])
    assert scored["cer"][4] == 1


def test_lines_are_asked_by_time_and_found_as_whole_words():
    lines = score_lines(SONG, asks((1, "title\nRow your boat"), (7, "Merrilyness unMerrily"), (5, "But a dream, (end)")))
    assert list(lines["asked"]) == [True, False, True, False, False]
    assert list(lines["found"]) == [True, False, False, True, True]


def test_a_no_text_answer_finds_no_line():
    assert not score_lines([Subtitle(0, 1, "text")], asks((0.5, "No text visible")))["found"].any()


def test_summary_counts_distinct_lines_and_gives_wilson_intervals():
    run = asks((1, "Row your boat"), (3, "Gently"), (5, "No text visible"), (7, "Merrily"))
    table = summarise(SONG, run)
    assert table.loc["exact answers", ["value", "n"]].tolist() == [0.75, 4]
    assert table.loc["exact answers, text on screen", "value"] == pytest.approx(2 / 3)
    assert table.loc["right answers, blank screen", ["value", "n"]].tolist() == [1, 1]
    asked, every = table.loc["line recall, lines on screen when asked"], table.loc["line recall, all lines"]
    assert (asked["value"], asked["n"]) == (pytest.approx(2 / 3), 3)
    assert (every["value"], every["n"]) == (0.5, 4)
    # Wilson, 2 of 4, z = 1.959964, by the textbook formula.
    z = 1.959964
    half = z / (1 + z**2 / 4) * math.sqrt(0.25 / 4 + z**2 / 64)
    assert every["low"] == pytest.approx(0.5 - half, abs=1e-5)
    assert every["high"] == pytest.approx(0.5 + half, abs=1e-5)
    cer = table.loc["character error rate"]
    assert cer["n"] == 13 + 22 + 7
    assert cer["value"] == pytest.approx(16 / 42)


def test_nothing_to_score_is_nan_with_n_zero():
    table = summarise(SONG, asks((1, "Row your boat")))
    assert table.loc["right answers, blank screen", "n"] == 0
    assert math.isnan(table.loc["right answers, blank screen", "value"])
    blank = summarise(SONG, asks((5, "No text visible")))
    assert math.isnan(blank.loc["character error rate", "value"])


def test_a_reading_is_found_by_text_and_by_time():
    read = [
        Subtitle(0.5, 2.5, "Row your boot"),  # of the first line, not of the same line at 8 s
        Subtitle(3, 3.5, "Gently down the stream"),
        Subtitle(6, 8, "Nothing alike"),
        Subtitle(12.5, 13, "But a dream"),  # too late
    ]
    scored = score_subtitles(SONG, read, [1, 3, 5, 8, 11])  # at 8 s the third line has just gone
    true = scored[: len(SONG)]
    assert list(true["text"]) == [s.text for s in SONG]
    assert list(true["asked"]) == [True, True, False, True, True]
    assert list(true["found"]) == [True, True, False, False, False]
    assert list(true["read_as"][:2]) == ["Row your boot", "Gently down the stream"]
    assert list(true["iou"][:2]) == pytest.approx([1.5 / 2.5, 0.5 / 2]) and true["iou"][2:].isna().all()
    surplus = scored[len(SONG) :]
    assert list(surplus["read_as"]) == ["Nothing alike", "But a dream"] and list(surplus["read_start_s"]) == [6, 12.5]
    assert surplus["start_s"].isna().all() and not surplus[["asked", "found"]].any(axis=None)


def test_a_line_that_was_read_in_two_parts_is_found_once():
    scored = score_subtitles([Subtitle(0, 10, "Merrily")], [Subtitle(0, 3, "Merrily"), Subtitle(4, 10, "Merrily")], [1])
    assert list(scored["found"]) == [True, False] and scored["read_start_s"].tolist() == [4, 0]
    assert summarise_subtitles(scored, [1]).loc["subtitle precision", ["value", "n"]].tolist() == [0.5, 2]


def test_as_many_lines_as_possible_get_a_reading():
    """The first reading fits the first line best, but is the only one that fits the second."""
    truth = [Subtitle(0, 4, "abcd"), Subtitle(3, 7, "abce")]
    scored = score_subtitles(truth, [Subtitle(1, 5, "abcd"), Subtitle(0, 1, "abcd")], [2])
    assert scored["read_start_s"].tolist() == [0, 1]


def test_what_looks_the_same_on_screen_is_one_line():
    truth = [Subtitle(0, 2, "la"), Subtitle(0, 2, "li"), Subtitle(2, 4, "la\nli"), Subtitle(4.5, 6, "la li")]
    scored = score_subtitles(truth, [Subtitle(0, 4, "la\nli")], [1])
    assert scored[["start_s", "end_s", "found"]].values.tolist() == [[0, 4, True], [4.5, 6, False]]


def test_the_summary_of_subtitles_is_as_counted_by_hand():
    truth = [Subtitle(0, 4, "abcd"), Subtitle(4, 8, "efgh"), Subtitle(8, 12, "ijkl"), Subtitle(12, 16, "mnop")]
    read = [Subtitle(1, 4, "abcd"), Subtitle(4, 11, "efgx"), Subtitle(9.5, 12, "ijkl"), Subtitle(20, 21, "noise")]
    asks_s = [2, 4, 6, 8, 10]  # every 2 s; the last line is not on screen at any of them
    table = summarise_subtitles(score_subtitles(truth, read, asks_s), asks_s)
    assert table.loc["subtitle recall, on screen when asked", ["value", "n"]].tolist() == [1, 3]
    assert table.loc["subtitle precision", ["value", "n"]].tolist() == [0.75, 4]
    assert table.loc["subtitle character error rate", ["value", "n"]].tolist() == [pytest.approx(1 / 12), 12]
    assert table.loc["subtitle start error, median (s)", "value"] == 1
    assert table.loc["subtitle start error, worst (s)", "value"] == 1.5
    assert table.loc["subtitle end error, median (s)", "value"] == 0
    assert table.loc["subtitle end error, worst (s)", "value"] == 3
    assert table.loc["subtitle starts within one ask interval", ["value", "n"]].tolist() == [1, 3]
    assert table.loc["subtitle ends within one ask interval", ["value", "n"]].tolist() == [pytest.approx(2 / 3), 3]
    both = table.loc["subtitles with both times within one ask interval"]
    assert (both["value"], both["n"]) == (pytest.approx(2 / 3), 3)
    z = 1.959964  # Wilson, 2 of 3, by the textbook formula
    centre, half = (2 / 3 + z**2 / 6) / (1 + z**2 / 3), z / (1 + z**2 / 3) * math.sqrt(2 / 27 + z**2 / 36)
    assert both[["low", "high"]].tolist() == pytest.approx([centre - half, centre + half], abs=1e-5)
    assert table.loc["subtitle temporal IoU, mean", "value"] == pytest.approx((3 / 4 + 4 / 7 + 2.5 / 4) / 3)


def test_subtitles_without_anything_to_compare():
    for truth, read, columns in (
        (SONG, [], ["subtitle precision", "subtitle character error rate"]),
        ([], [Subtitle(0, 1, "text")], ["subtitle recall, on screen when asked", "subtitle starts within one ask interval"]),
    ):
        table = summarise_subtitles(score_subtitles(truth, read, [1.0]), [1.0])
        assert table.loc[columns, "value"].isna().all() and not table.loc[columns, "n"].any()


def test_times_that_differ_by_a_rounding_error_are_the_same():
    truth, read = [Subtitle(0.3, 0.9, "abcd")], [Subtitle(0.1 + 0.2, 0.9 + 1e-3, "abcd")]
    table = summarise_subtitles(score_subtitles(truth, read, [0.5]), [0.5])
    assert 0.1 + 0.2 != 0.3 and table.loc["subtitle start error, worst (s)", "value"] == 0
    assert table.loc["subtitle end error, worst (s)", "value"] == 0.001, "the times of an .srt are whole milliseconds"
