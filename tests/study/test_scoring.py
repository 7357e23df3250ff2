"""Answers are scored against hand-made subtitles whose scores are known by counting."""

import math
import re

import pandas as pd
import pytest

from kvlib.lab.study.scoring import (
    Subtitle,
    collect_lines,
    exact_match,
    is_no_text,
    normalise,
    read_srt,
    score_answers,
    score_lines,
    summarise,
    truth_at,
)
from kvlib.prompts import QUESTION_ZH

SONG = [
    Subtitle(0, 2, "Row your boat"),
    Subtitle(2, 4, "Gently down\nthe stream"),
    Subtitle(6, 8, "Merrily"),
    Subtitle(8, 10, "Row your boat"),
    Subtitle(10, 12, "But a dream"),
]


def asks(*pairs):
    return pd.DataFrame(pairs, columns=["time_s", "answer"])


def test_srt_is_read_in_order_without_markup(tmp_path):
    path = tmp_path / "clip.srt"
    path.write_text(
        "\ufeff2\n00:00:05,500 --> 00:00:07,000\n<i>second</i>\nrow\n\n"
        "1\n00:00:01,000 --> 00:00:02,250\n{\\an8}first\n\n3\n00:01:00,000 --> 00:01:01,000\n<b></b>\n",
        encoding="utf-8",
    )
    assert read_srt(path) == [Subtitle(1.0, 2.25, "first"), Subtitle(5.5, 7.0, "second\nrow")]


@pytest.mark.parametrize(
    ("timing", "start_s", "end_s"),
    [
        ("00:00:01,250 --> 00:00:03,500", 1.25, 3.5),
        ("00:00:01.250 --> 00:00:03.500", 1.25, 3.5),
        ("00:00:01,250000 --> 00:00:03,500000", 1.25, 3.5),
        ("0:0:1,5 --> 0:0:3,25", 1.5, 3.25),
        ("00:00:01 --> 00:00:03", 1, 3),
        ("00:01,000 --> 01:03,000", 1, 63),
        ("100:00:01,000 --> 100:00:03,000", 360001, 360003),
        ("00:00:01,000 --> 00:00:03,000 X1:100 X2:200", 1, 3),
    ],
)
def test_times_are_read_with_or_without_hours_and_with_any_number_of_decimals(tmp_path, timing, start_s, end_s):
    path = tmp_path / "clip.srt"
    path.write_text(f"1\n{timing}\ntext\n\n2\n200:00:00,000 --> 200:00:01,000\nlast\n")
    assert read_srt(path)[0] == Subtitle(start_s, end_s, "text")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('{\\an8}<font color="#ff0"><i>Hello</i></font>', "Hello"),
        ("<B>Hello</B> <c.yellow>you</c>", "Hello you"),
        ("I <3 you, 1 < 2 > 0", "I <3 you, 1 < 2 > 0"),
        ("x <y and z> w", "x <y and z> w"),
    ],
)
def test_markup_is_removed_and_other_brackets_stay(tmp_path, written, shown):
    path = tmp_path / "clip.srt"
    path.write_text(f"1\n00:00:01,000 --> 00:00:03,000\n{written}\n")
    assert read_srt(path)[0].text == shown


def test_bad_srt_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.srt.*beside it"):
        read_srt(tmp_path / "gone.srt")
    for name, content in {"noise": b"no subtitles here", "latin": b"1\n\xff\xfe"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*not a valid .srt"):
            read_srt(tmp_path / name)
    (tmp_path / "empty.srt").touch()
    with pytest.raises(ValueError, match="empty.srt holds no subtitle"):
        read_srt(tmp_path / "empty.srt")


def test_truth_starts_with_the_subtitle_and_ends_before_its_end():
    assert truth_at(SONG, 0) == "Row your boat"
    assert truth_at(SONG, 1.999) == "Row your boat"
    assert truth_at(SONG, 2) == "Gently down\nthe stream"
    assert truth_at(SONG, 4) == "" == truth_at(SONG, 99)
    assert truth_at([Subtitle(0, 2, "a"), Subtitle(1, 3, "b")], 1.5) == "a\nb"


def test_normalise_keeps_case_and_punctuation():
    assert normalise("  Row\n your\tboat! ") == "Row your boat!"
    assert normalise("\uff32ow\u3000\ufb01t") == "Row fit"


@pytest.mark.parametrize(
    "answer", ["", " \n", "No text visible", "no text visible.", '"No text"', "There is no text visible on the screen.",
               "屏幕上没有文字。", "无文字", "没有可见的文字",
               "“没有可见文字”", "没有可见文字！", "当前屏幕上没有可见文字。", "画面中没有字幕"],
)  # fmt: skip
def test_no_text_is_recognised(answer):
    assert is_no_text(answer)


@pytest.mark.parametrize(
    "answer", ["No text message tonight", "No", "There is no tomorrow", "文字", "no textbook", "没有你", "没有文字的歌"]
)
def test_lyrics_are_not_taken_for_no_text(answer):
    assert not is_no_text(answer)


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


def test_lines_are_collected_once_in_order():
    answers = ["Row your boat", "No text visible", "Gently down\nthe  stream", "row your boat", "", "the stream"]
    assert collect_lines(answers) == ["Row your boat", "Gently down", "the stream"]


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


def test_the_chinese_question_asks_for_an_answer_that_is_recognised():
    asked_for = re.search("请回答(“.*?”)", QUESTION_ZH).group(1)
    assert is_no_text(asked_for)


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
