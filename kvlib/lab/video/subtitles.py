"""SubRip files (.srt): read strictly, because a skipped entry would make a wrong ground truth, and written so that every text
is read back as it was."""

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import srt

from kvlib.lab.report import paths
from kvlib.lab.video.source import VideoSource

MARKUP = re.compile(r"</?(?:b|i|u|s|font|span|ruby|rt|c|v)(?:[\s.][^<>]*)?/?>|\{\\[^{}]*\}", re.IGNORECASE)
TIME = r"(?:(\d{1,6})[:：])?(\d{1,6})[:：](\d{1,6})(?:[,.:，．。：](\d+))?"  # hours or none, minutes, seconds, decimals or none
TIMING_LINE = re.compile(rf"[ \t]*{TIME}[ \t]*-->[ \t]*{TIME}(?:[ \t].*)?")  # what stands behind the times is a position
ALMOST_TIMING = re.compile(r"[ \t]*[-+−]?\d+[ \t]*[:：].*-->|(?:[^\s\u2060]*\d\S*)?[ \t]*-->[ \t]*[-+−]?\d+[ \t]*[:：]")
NEGATIVE = re.compile(r"[ \t]*[-−][ \t]*\d|.*-->[ \t]*[-−][ \t]*\d")
ESCAPE = "\u2060"  # WORD JOINER, which players do not show
ENTRY = "an entry is a number, a line such as '00:00:01,000 --> 00:00:03,500', and a text without blank lines"


class Subtitle(NamedTuple):
    """A text and when it is on screen, from `start_s` up to, not including, `end_s` (seconds)."""

    start_s: float
    end_s: float
    text: str


def read_srt(path: str | Path) -> list[Subtitle]:
    """The subtitles of an .srt file in UTF-8, in order of time, without markup and without empty ones.

    Times may lack hours and decimals, or have decimals of any number. Entries may lack numbers and the blank line between two
    of them, overlap, and stand in any order.

    Raises FileNotFoundError when there is no such file, PermissionError when it may not be read, and ValueError when it is not
    an .srt or holds no subtitle. The message names the file, the line and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no subtitles at {path}: put an .srt with the video's name beside it")
    try:
        content = path.read_text(encoding="utf-8-sig")  # every kind of line end becomes "\n"
    except PermissionError as error:
        raise PermissionError(f"the subtitles {path} may not be read: change the file's permissions") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a valid .srt in UTF-8 ({error}): convert it to UTF-8") from error
    subtitles = []
    for start_s, end_s, written in _entries(content.split("\n"), path):
        text = MARKUP.sub("", written).strip()
        if text:
            subtitles.append(Subtitle(start_s, end_s, _unescape(text)))
    if not subtitles:
        raise ValueError(f"{path} holds no subtitle: without ground truth, leave the .srt out")
    return sorted(subtitles, key=lambda subtitle: subtitle[:2])


def format_srt(subtitles: Iterable[Subtitle]) -> str:
    """The content of an .srt file, from which `read_srt` reads the same subtitles, with times in whole milliseconds.

    Blank lines, "-->" and markup within a text get an invisible U+2060, so that they stay text; `read_srt` removes it. Line
    ends of every kind become a newline. Raises ValueError for an empty text, a negative time, and an end not after the start.
    """
    entries = []
    for number, subtitle in enumerate(sorted(subtitles, key=lambda subtitle: subtitle[:2]), start=1):
        start_ms, end_ms = (round(1000 * time_s) for time_s in subtitle[:2])
        if not subtitle.text or not 0 <= start_ms < end_ms:
            raise ValueError(f"{subtitle} cannot be written: give a text, a start of at least 0 s and an end after it")
        times = timedelta(milliseconds=start_ms), timedelta(milliseconds=end_ms)
        entries.append(srt.Subtitle(number, *times, _escape(subtitle.text)))
    return srt.compose(entries, reindex=False)  # reindexing drops entries


def truth_at(subtitles: list[Subtitle], time_s: float) -> str:
    """The text on screen at `time_s` seconds, "" for none; subtitles shown together are joined by newlines."""
    return "\n".join(s.text for s in subtitles if s.start_s <= time_s < s.end_s)


def shown_together(subtitles: Iterable[Subtitle]) -> list[Subtitle]:
    """In order of time; those with the same times become one, their texts joined by newlines."""
    together: dict[tuple[float, float], list[str]] = {}
    for subtitle in sorted(subtitles, key=lambda subtitle: subtitle[:2]):
        together.setdefault(subtitle[:2], []).append(subtitle.text)
    return [Subtitle(*times, "\n".join(texts)) for times, texts in together.items()]


def srt_of(video: str | Path) -> Path:
    """The place of a video's own subtitles: beside it, with its name."""
    return Path(video).with_suffix(".srt")


def subtitles_beside(video: str | Path) -> list[Subtitle] | None:
    """A video's own subtitles, see `srt_of`; None where there are none, as for a live source. Raises what `read_srt` raises."""
    return read_srt(srt_of(video)) if "://" not in str(video) and srt_of(video).is_file() else None


def opening_text(source: VideoSource) -> str:
    """The text on screen at the end of the first chunk of `source`: "" where there is none, and without subtitles beside it.

    Raises what `read_srt` and `VideoChunks` raise.
    """
    return truth_at(subtitles_beside(source.path) or [], next(iter(source)).time_s)


def subtitles_path(video: Path, output_dir: str = "") -> Path:
    """Where a run writes what it reads from `video`: `<the video's name>.srt` beside the report.

    Raises ValueError when the video lies there too, because an .srt beside the video is its ground truth.
    """
    path = paths.report_path(video.stem, output_dir).with_name(f"{video.stem}.srt")
    if path.resolve() == srt_of(video).resolve():
        raise ValueError(
            f"{path} is the place of the video's own subtitles, so what is read cannot be written there: "
            "give another OUTPUT_DIR, or move the video to another folder"
        )
    return path


def _entries(lines: list[str], path: Path) -> Iterable[tuple[float, float, str]]:
    """Start and end in seconds and the text, with markup, of every entry in `lines`."""
    timings = [i for i, line in enumerate(lines) if _is_timing(line, i, path)]
    heads = [i - 1 if i and lines[i - 1].strip().isdecimal() else i for i in timings]  # the number belongs to the entry
    _only_blank(lines, 0, heads[0] if heads else len(lines), path)
    for timing, stop in zip(timings, (*heads, len(lines))[1:], strict=True):
        start_s, end_s = _times(lines[timing], timing, path)
        end = next((i for i in range(timing + 1, stop) if not lines[i].strip(" \t")), stop)
        _only_blank(lines, end, stop, path)
        yield start_s, end_s, "\n".join(lines[timing + 1 : end])


def _is_timing(line: str, index: int, path: Path) -> bool:
    if TIMING_LINE.fullmatch(line):
        return True
    if not ALMOST_TIMING.match(line):  # what `format_srt` has escaped is none
        return False
    if NEGATIVE.match(line):
        raise _malformed(path, index, line, "has a time before 0: shift the times, or delete the entry")
    raise _malformed(path, index, line, "has times that cannot be read: write them as 00:00:01,000 --> 00:00:03,500")


def _only_blank(lines: list[str], start: int, stop: int, path: Path) -> None:
    for i in range(start, stop):
        if lines[i].strip(" \t"):
            raise _malformed(path, i, lines[i], f"belongs to no entry with times: correct or delete it ({ENTRY})")


def _times(line: str, index: int, path: Path) -> tuple[float, float]:
    """`srt` would read MM:SS as HH:MM, and six decimals as milliseconds."""
    found, times_ms = TIMING_LINE.fullmatch(line).groups(), []
    for hours, minutes, seconds, decimals in (found[:4], found[4:]):
        if int(seconds) > 59 or (hours and int(minutes) > 59):
            raise _malformed(path, index, line, "has more than 59 minutes or seconds: write 90 seconds as 00:01:30,000")
        whole_s = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
        times_ms.append(1000 * whole_s + int(f"{decimals or '0':0<3}"[:3]))
    if times_ms[0] >= times_ms[1]:
        raise _malformed(path, index, line, "does not end after its start: correct the times, or delete the entry")
    return times_ms[0] / 1000, times_ms[1] / 1000


def _malformed(path: Path, index: int, line: str, problem: str) -> ValueError:
    shown = line if len(line) <= 60 else line[:59] + "…"
    return ValueError(f"{path} is not a valid .srt: line {index + 1}, {shown!r}, {problem}")


def _escape(text: str) -> str:
    lines = re.split("\r\n|\r|\n", text.replace(ESCAPE, ESCAPE * 2))
    if MARKUP.search(text):
        lines = [re.sub("[<{]", rf"\g<0>{ESCAPE}", line) for line in lines]
    lines = [ESCAPE + line if not line.strip() or "-->" in line else line for line in lines]
    if lines[0][:1].isspace():
        lines[0] = ESCAPE + lines[0]
    if lines[-1][-1:].isspace():
        lines[-1] += ESCAPE
    return "\n".join(lines)


def _unescape(text: str) -> str:
    """Two of `ESCAPE` stand for one, a single one for nothing."""
    return re.sub(f"{ESCAPE}({ESCAPE}?)", r"\1", text)
