"""From the answers of a run to the lines that were on screen, each with the time it was read from and to."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from kvlib.lab.video.subtitles import Subtitle, shown_together

# Of the longer reading's characters: up to this distance two readings are of one line. The embedded reader's worst misreading
# of the lyrics clip is 0.13 from its line; the clip's two most similar lines are 0.54 apart.
SAME_LINE = 0.25
EDGES = " .!。\"'“”「」"  # after normalise
NO_TEXT_ANSWER = re.compile(
    r"(there is )?(currently )?no (visible )?text( is)?( currently)?( visible)?( on (the )?screen)?"
    r"|(目前|当前)?((屏幕|画面)[上中]?)?(目前|当前)?(没有|无|看不到)(任何)?(可见)?(的)?(文字|文本|歌词|字幕)(可见)?"
)


def normalise(text: str) -> str:
    """`text` in Unicode form NFKC, with runs of white space (newlines too) as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def is_no_text(answer: str) -> bool:
    """Whether an answer says that there is nothing to read."""
    answer = normalise(answer).casefold().strip(EDGES)
    return answer == "" or NO_TEXT_ANSWER.fullmatch(answer) is not None


def text_distance(a: str, b: str) -> float:
    """Edits from one text to the other, of the longer one's characters: 0 (the same) to 1. Letters' case does not count."""
    return Levenshtein.normalized_distance(normalise(a).casefold(), normalise(b).casefold())


def is_same_line(a: str, b: str) -> bool:
    """Whether two readings are of one line: at most `SAME_LINE` apart, and without numbers that differ.

    A counter or a chapter changes by one character and is then another line. A number in one reading only may be a misread
    letter, such as 1 for I.
    """
    numbers, others = _numbers(a), _numbers(b)
    return (not numbers or not others or numbers == others) and text_distance(a, b) <= SAME_LINE


@dataclass
class _Track:
    """A line that was read in consecutive answers, from one time to another."""

    start_s: float
    end_s: float
    readings: list[str]

    def text(self) -> str:
        """The most frequent reading; of equally frequent ones the first."""
        return Counter(self.readings).most_common(1)[0][0]


def join_lines(asks: Iterable[tuple[float, str]], end_s: float) -> list[Subtitle]:
    """What was on screen and when, from the answers (time in s, answer) of a run that began at 0 s.

    A line that stays is one entry: a line of an answer continues the nearest line of the answer before, if `is_same_line` holds
    for the two. The entry has the most frequent reading; of equally frequent ones the first. Within one answer a repeated line
    counts once. Lines with the same times are one entry with a line each, in the order of the last answer that has them.

    A line appeared after the last question that did not see it (or 0 s) and not after the first that did; it went between the
    last question that saw it and the next (or `end_s`). The entry begins and ends in the middle of these spans, so that either
    time is at most half a span off.

    A line that one answer in the middle does not have becomes two entries: a line that goes and comes back looks the same.

    end_s: when the run's last frame ended. Raises ValueError for times that do not rise from 0 s, or do not end before `end_s`.
    """
    finished: list[_Track] = []
    shown: list[_Track] = []
    before_s, first = 0.0, True
    for time_s, answer in asks:
        time_s = float(time_s)
        if not before_s <= time_s < end_s or (time_s == before_s and not first):
            raise ValueError(f"a question at {time_s} s after {before_s} s: give rising times from 0 s on and before {end_s} s")
        middle_s, lines = (before_s + time_s) / 2, _lines(answer)
        continued = _match(shown, lines)
        for i, track in enumerate(shown):
            if i not in continued.values():
                track.end_s = middle_s
                finished.append(track)
        shown = [shown[continued[j]] if j in continued else _Track(middle_s, end_s, []) for j in range(len(lines))]
        for track, line in zip(shown, lines, strict=True):
            track.readings.append(line)
        before_s, first = time_s, False
    for track in shown:
        track.end_s = (before_s + float(end_s)) / 2
    return shown_together(Subtitle(track.start_s, track.end_s, track.text()) for track in finished + shown)


def collect_lines(subtitles: Iterable[Subtitle]) -> list[str]:
    """The lines of all texts in the order in which they first appear; readings of one line count once, see `is_same_line`."""
    lines: list[str] = []
    for line in (line for subtitle in subtitles for line in subtitle.text.splitlines()):
        if not any(is_same_line(line, known) for known in lines):
            lines.append(line)
    return lines


def _lines(answer: str) -> list[str]:
    """The lines of an answer, after `normalise`, without those that say "no text" and without repeated ones."""
    lines: dict[str, str] = {}
    for line in map(normalise, answer.splitlines()):
        if not is_no_text(line):
            lines.setdefault(line.casefold(), line)
    return list(lines.values())


def _match(tracks: list[_Track], lines: list[str]) -> dict[int, int]:
    """For the index of a line the index of the track that it continues: the nearest readings first."""
    pairs = [
        (text_distance(track.readings[-1], line), i, j)
        for i, track in enumerate(tracks)
        for j, line in enumerate(lines)
        if is_same_line(track.readings[-1], line)
    ]
    continued: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if j not in continued and i not in continued.values():
            continued[j] = i
    return continued


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", normalise(text))
