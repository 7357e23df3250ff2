"""Lines joined from answers whose subtitles are known by hand."""

import re

import pytest

from kvlib.lab.video.lines import collect_lines, is_no_text, is_same_line, join_lines, normalise
from kvlib.lab.video.subtitles import Subtitle
from kvlib.prompts import QUESTION_ZH


def joined(*answers: str) -> list[Subtitle]:
    """Asked at 2, 4, 6, ... s; the run ends 2 s after the last question."""
    return join_lines([(2 * i + 2, answer) for i, answer in enumerate(answers)], 2 * len(answers) + 2)


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


def test_the_chinese_question_asks_for_an_answer_that_is_recognised():
    asked_for = re.search("请回答(“.*?”)", QUESTION_ZH).group(1)
    assert is_no_text(asked_for)


def test_lines_are_collected_once_in_order():
    answers = ["Row your boat", "No text visible", "Gently down\nthe  stream", "row your boat", "", "the stream"]
    assert collect_lines(joined(*answers)) == ["Row your boat", "Gently down", "the stream"]


def test_a_line_that_stays_is_one_entry_between_the_questions_around_it():
    assert joined("No text visible", "one", "one", "", "two") == [Subtitle(3, 7, "one"), Subtitle(9, 11, "two")]


def test_a_line_at_the_first_and_at_the_last_question_is_bounded_by_the_run():
    assert join_lines([(1.5, "one")], 2.5) == [Subtitle(0.75, 2.0, "one")]
    assert join_lines([(0, "one")], 0.5) == [Subtitle(0, 0.25, "one")]
    assert join_lines([(0, "one"), (1, "two")], 2) == [Subtitle(0, 0.5, "one"), Subtitle(0.5, 1.5, "two")]
    assert join_lines([], 1) == []


def test_misreadings_of_one_line_are_one_entry_with_the_most_frequent_reading():
    assert joined("Susana, don't", "Susanna, don't", "Susanna, don't", "Suzanna don't") == [Subtitle(1, 9, "Susanna, don't")]
    assert joined("A shore clip", "A short clip") == [Subtitle(1, 5, "A shore clip")], "of equally frequent ones the first"


def test_a_reading_continues_the_one_before_it():
    """Each is a quarter off the one before, and the third is half off the first."""
    assert joined("abcdefgh", "abcdefxx", "abcdxxxx") == [Subtitle(1, 7, "abcdefgh")]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1", "2", False),
        ("me!", "we!", False),
        ("abcd", "abcx", True),  # 1 of 4
        ("abcdefg", "abcdexy", False),  # 2 of 7
        ("abcd", "abcde", True),
        ("ROW YOUR BOAT", "row  your boat", True),
        ("Verse 1, chorus", "Verse 2, chorus", False),
        ("The hour I first", "The hour 1 first", True),
        ("你好", "你们好吗", False),
    ],
)
def test_readings_of_one_line_are_at_most_a_quarter_apart_and_have_the_same_numbers(a, b, same):
    assert is_same_line(a, b) == is_same_line(b, a) == same


def test_different_short_lines_stay_apart():
    assert joined("1", "2", "2", "3") == [Subtitle(1, 3, "1"), Subtitle(3, 7, "2"), Subtitle(7, 9, "3")]


def test_lines_shown_together_are_one_entry_and_others_have_times_of_their_own():
    assert joined("top\nbottom", "top\nbottom") == [Subtitle(1, 5, "top\nbottom")]
    assert joined("title\nfirst", "title\nsecond", "title") == [
        Subtitle(1, 3, "first"),
        Subtitle(1, 7, "title"),
        Subtitle(3, 5, "second"),
    ]


def test_each_line_continues_the_nearest_one():
    """Both lines of the second answer are readings of either line of the first."""
    assert joined("the cat sat on\nthe hat sat on", "the hat sat on\nthe cat sat on.") == [
        Subtitle(1, 5, "the hat sat on\nthe cat sat on")
    ]
    assert joined("long line a", "long line a\nlong line b", "long line b") == [
        Subtitle(1, 5, "long line a"),
        Subtitle(3, 7, "long line b"),
    ]


def test_a_line_that_comes_back_is_an_entry_of_its_own():
    for between in ("No text visible", "", "another one"):
        entries = [entry for entry in joined("line", between, "line") if entry.text == "line"]
        assert entries == [Subtitle(1, 3, "line"), Subtitle(5, 7, "line")]


def test_a_line_repeated_within_an_answer_counts_once():
    assert joined("la la\nla la\nLA LA") == [Subtitle(1, 3, "la la")]


def test_collected_lines_merge_the_readings_of_one_line():
    entries = [Subtitle(0, 1, "Row your boat\nGently"), Subtitle(5, 6, "Row your boot"), Subtitle(6, 7, "Merrily")]
    assert collect_lines(entries) == ["Row your boat", "Gently", "Merrily"]


@pytest.mark.parametrize("asks", [[(1, "a"), (1, "b")], [(2, "a"), (1, "b")], [(-1, "a")], [(5, "a")], [(0, "a"), (0, "a")]])
def test_times_that_do_not_rise_are_refused(asks):
    with pytest.raises(ValueError, match="give rising times"):
        join_lines(asks, 5)
