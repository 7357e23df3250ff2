"""SubRip files: what people have is read, what is malformed is refused by its line, and what is written is read back."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib.lab.report import paths
from kvlib.lab.video.source import VideoSource
from kvlib.lab.video.subtitles import (
    Subtitle,
    format_srt,
    opening_text,
    read_srt,
    shown_together,
    srt_of,
    subtitles_beside,
    subtitles_path,
    truth_at,
)

TWO = "1\n00:00:01,000 --> 00:00:03,000\na\n\n2\n00:00:03,000 --> 00:00:05,500\nb\n"
READ = [Subtitle(1, 3, "a"), Subtitle(3, 5.5, "b")]


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


@pytest.mark.parametrize(
    "written",
    [
        TWO.replace("\n", "\r\n"),
        TWO.replace("\n", "\r"),
        "\ufeff" + TWO,
        "\n \n" + TWO + "\n\n",
        TWO.rstrip(),
        TWO.replace("\n\n2", "\n2"),
        TWO.replace("1\n00", "00").replace("2\n00", "00"),
        TWO.replace("\n2\n", "\n7\n"),
        "9\n00:00:03,000 --> 00:00:05,500\nb\n\n" + TWO.split("\n\n")[0],
    ],
)
def test_entries_may_be_written_in_many_ways(tmp_path, written):
    path = tmp_path / "clip.srt"
    path.write_bytes(written.encode())
    assert read_srt(path) == READ


@pytest.mark.parametrize(
    ("written", "line", "problem"),
    [
        ("1\na\n\n" + TWO, 1, "'1', belongs to no entry"),
        (TWO + "\n3\nno times\n", 9, "'3', belongs to no entry"),
        (TWO.replace("\n\n2", "\n\nmore\n\n2"), 5, "'more', belongs to no entry"),
        ("WEBVTT\n\n" + TWO, 1, "'WEBVTT', belongs to no entry"),
        (TWO + "\n\0\0", 9, "belongs to no entry"),
        (TWO.replace("00:00:03,000 -->", "-00:00:03,000 -->"), 6, "has a time before 0"),
        (TWO.replace("--> 00:00:03,000", "--> -00:00:03,000"), 2, "has a time before 0"),
        (TWO.replace("00:00:05,500", "00:00:02,999"), 6, "does not end after its start"),
        (TWO.replace("00:00:05,500", "00:00:03,000"), 6, "does not end after its start"),
        (TWO.replace("00:00:05,500", "00:00:75,500"), 6, "more than 59"),
        (TWO.replace("00:00:05,500", "00:75:05,500"), 6, "more than 59"),
        (TWO.replace("\n\n2\n", "\n").replace("00:00:05,500", ""), 4, "cannot be read"),
        (TWO.replace("00:00:01,000", "00:00:O1,000"), 2, "cannot be read"),
        (TWO.replace("00:00:05,500", "00:00:05,500abc"), 6, "cannot be read"),
        (TWO.replace("-->", "->", 1), 1, "belongs to no entry"),
        (TWO.replace("00:00:05,500", "9" * 5000 + ":00:05,500"), 6, "cannot be read"),
    ],
)
def test_what_is_malformed_is_refused_by_its_line(tmp_path, written, line, problem):
    path = tmp_path / "clip.srt"
    path.write_text(written)
    with pytest.raises(ValueError, match=rf"clip\.srt is not a valid \.srt: line {line}, .*{problem}.*: \w+"):
        read_srt(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "clip.srt").write_text(TWO)
    (tmp_path / "clip.srt").chmod(0)
    with pytest.raises(PermissionError, match="clip.srt may not be read: change"):
        read_srt(tmp_path / "clip.srt")


@pytest.mark.parametrize(
    "text",
    [
        "a\n\nb",
        "\n\na \n ",
        "a --> b",
        "2\n00:00:03,000 --> 00:00:05,500\nc",
        "7",
        "a\n7",
        "<i>a</i>",
        "{\\an8}a < b",
        "<<i>b>",
        "I <3 you, 1 < 2",
        "\u2060a\u2060\u2060\n\u2060\n<b>",
        "&amp;",
        " ",
        "\ufeff",
        "\x1c\u2028x\x0c",
    ],
)
def test_every_text_is_read_back(tmp_path, text):
    subtitles = [Subtitle(0, 1.25, text), Subtitle(1.25, 360000.001, text)]
    (tmp_path / "clip.srt").write_text(format_srt(subtitles))
    assert read_srt(tmp_path / "clip.srt") == subtitles


PIECES = st.sampled_from(
    ["a", "1", "\n", " ", "<", ">", "<i>", "</b", "{\\x}", "{", "\\", "-->", "00:01", ":", ",", "\u2060", "-", "\t"]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=12).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_texts_made_of_the_format_s_own_signs_are_read_back(tmp_path_factory, texts):
    subtitles = [Subtitle(float(i), i + 0.5, text) for i, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("texts") / "clip.srt"
    path.write_bytes(format_srt(subtitles).encode())
    assert read_srt(path) == subtitles


def test_a_plain_text_is_written_plainly():
    assert format_srt(READ[::-1]) == TWO + "\n"


@pytest.mark.parametrize("unusable", [Subtitle(0, 1, ""), Subtitle(-1, 1, "a"), Subtitle(1, 1.0001, "a"), Subtitle(2, 1, "a")])
def test_what_cannot_be_written_is_named(unusable):
    with pytest.raises(ValueError, match="cannot be written: give"):
        format_srt([unusable])


def test_subtitles_of_the_same_times_are_one():
    shown = [Subtitle(1, 2, "c"), Subtitle(0, 2, "a"), Subtitle(0, 2, "b"), Subtitle(0, 3, "d")]
    assert shown_together(shown) == [Subtitle(0, 2, "a\nb"), Subtitle(0, 3, "d"), Subtitle(1, 2, "c")]


def test_the_subtitles_of_a_video_are_those_beside_it(tmp_path):
    video = tmp_path / "a.b.mp4"
    assert srt_of(video) == tmp_path / "a.b.srt" and subtitles_beside(video) is None
    written = [Subtitle(1.0, 2.0, "Text")]
    (tmp_path / "a.b.srt").write_text(format_srt(written))
    assert subtitles_beside(video) == subtitles_beside(str(video)) == written
    (tmp_path / "a.b.srt").write_text("damaged")
    with pytest.raises(ValueError, match="is not a valid .srt"):
        subtitles_beside(video)
    assert subtitles_beside("rtsp://camera:554/live.mp4") is None, "a live source has none"


def test_what_is_read_is_written_beside_the_report_and_never_over_the_ground_truth(tmp_path, monkeypatch):
    monkeypatch.delenv("REPORT_PATH", raising=False)
    assert subtitles_path(Path("/videos/a.b.mp4")) == paths.RESULTS / "a.b.srt"
    assert subtitles_path(Path("/videos/a.mp4"), str(tmp_path)) == tmp_path / "a.srt"
    with pytest.raises(ValueError, match=r"a\.srt is the place of the video's own subtitles.*OUTPUT_DIR"):
        subtitles_path(tmp_path / "a.mp4", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="own subtitles"):
        subtitles_path(tmp_path / "link/a.mp4", str(tmp_path))


def test_truth_starts_with_the_subtitle_and_ends_before_its_end():
    assert truth_at(READ, 1) == "a" == truth_at(READ, 2.999)
    assert truth_at(READ, 3) == "b"
    assert truth_at(READ, 0.999) == truth_at(READ, 5.5) == truth_at(READ, 99) == ""
    assert truth_at([Subtitle(0, 2, "a"), Subtitle(1, 3, "b")], 1.5) == "a\nb"


def test_the_opening_text_is_on_screen_in_the_first_chunk(tmp_path):
    (tmp_path / "clip.mp4").symlink_to(paths.ROOT / "data/clips/short.mp4")
    source = VideoSource(tmp_path / "clip.mp4")
    assert opening_text(source) == "", "no subtitles beside it"
    (tmp_path / "clip.srt").write_text(TWO)
    assert opening_text(source) == "", "its first chunk ends before the first of them"
    (tmp_path / "clip.srt").write_text(TWO.replace("00:00:01,000", "00:00:00,000"))
    assert opening_text(source) == "a"
