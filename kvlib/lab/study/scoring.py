"""Answers scored against the true text: the definition of an exact answer, and an .srt as ground truth.

Texts are compared after `normalise`: Unicode form and white space do not count, letters' case and punctuation do,
because the question asks for the text verbatim.
"""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import jiwer
import pandas as pd
import srt

from kvlib.lab.report.statistics import wilson

EDGES = " .!。\"'“”「」"  # after normalise
NO_TEXT_ANSWER = re.compile(
    r"(there is )?(currently )?no (visible )?text( is)?( currently)?( visible)?( on (the )?screen)?"
    r"|(目前|当前)?((屏幕|画面)[上中]?)?(目前|当前)?(没有|无|看不到)(任何)?(可见)?(的)?(文字|文本|歌词|字幕)(可见)?"
)
MARKUP = re.compile(r"</?(?:b|i|u|s|font|span|ruby|rt|c|v)(?:[\s.][^<>]*)?/?>|\{\\[^{}]*\}", re.IGNORECASE)
TIME = r"(?:(\d+)[:：])?(\d+)[:：](\d+)(?:[,.:，．。：](\d+))?"  # hours, which may be absent, minutes, seconds, their decimals
TIMING_LINE = re.compile(rf"^[ \t]*{TIME}[ \t]*-->[ \t]*{TIME}(?![\d,.:])", re.MULTILINE)


class Subtitle(NamedTuple):
    """A text and when it is on screen, from `start_s` up to, not including, `end_s` (seconds)."""

    start_s: float
    end_s: float
    text: str


def read_srt(path: str | Path) -> list[Subtitle]:
    """The subtitles of an .srt file in UTF-8, in order of time, without markup and without empty ones.

    Raises FileNotFoundError when there is no such file, ValueError when it is not an .srt or holds no subtitle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no subtitles at {path}: put an .srt with the video's name beside it")
    try:
        entries = sorted(srt.parse(TIMING_LINE.sub(_milliseconds, path.read_text(encoding="utf-8-sig"))))
    except (srt.SRTParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a valid .srt in UTF-8 ({error}): correct or convert it") from error
    texts = [MARKUP.sub("", entry.content).strip() for entry in entries]
    subtitles = [
        Subtitle(entry.start.total_seconds(), entry.end.total_seconds(), text)
        for entry, text in zip(entries, texts, strict=True)
        if text
    ]
    if not subtitles:
        raise ValueError(f"{path} holds no subtitle: without ground truth, leave the .srt out")
    return subtitles


def truth_at(subtitles: list[Subtitle], time_s: float) -> str:
    """The text on screen at `time_s` seconds, "" for none; subtitles shown together are joined by newlines."""
    return "\n".join(s.text for s in subtitles if s.start_s <= time_s < s.end_s)


def normalise(text: str) -> str:
    """`text` in Unicode form NFKC, with runs of white space (newlines too) as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def is_no_text(answer: str) -> bool:
    """Whether an answer says that there is nothing to read."""
    answer = normalise(answer).casefold().strip(EDGES)
    return answer == "" or NO_TEXT_ANSWER.fullmatch(answer) is not None


def exact_match(answer: str, truth: str) -> bool:
    """Whether `answer` is the text `truth` after `normalise`; where `truth` is empty, whether it says that there is no text."""
    truth = normalise(truth)
    return normalise(answer) == truth or (not truth and is_no_text(answer))


def collect_lines(answers: list[str]) -> list[str]:
    """The answers' lines in the order in which they first appear, without duplicates and "no text" lines."""
    lines = {}
    for line in (normalise(line) for answer in answers for line in answer.splitlines()):
        if not is_no_text(line):
            lines.setdefault(line.casefold(), line)
    return list(lines.values())


def score_answers(subtitles: list[Subtitle], asks: pd.DataFrame) -> pd.DataFrame:
    """`asks` (columns `time_s`, `answer`; others are kept) with three columns more.

    `truth`: the text on screen, "" for none. `exact`: whether the answer is that text, or says "no text" where there is
    none. `cer`: character error rate, NaN where the truth is blank; "no text" counts as an empty answer.
    """
    truth = [truth_at(subtitles, t) for t in asks["time_s"]]
    pairs = list(zip(truth, asks["answer"], strict=True))
    exact = [exact_match(answer, text) for text, answer in pairs]
    cer = [jiwer.cer(normalise(text), _text_read(answer, text)) if text else float("nan") for text, answer in pairs]
    return asks.assign(truth=truth, exact=exact, cer=cer)


def score_lines(subtitles: list[Subtitle], asks: pd.DataFrame) -> pd.DataFrame:
    """One row per subtitle: `start_s`, `end_s`, `text`, `asked`, `found`.

    `asked`: a question was asked while it was on screen. `found`: an answer of the run contains its text as whole words. So a
    line is also found in an answer with more text than that line; the character error rate counts the surplus.
    """
    answers = [_text_read(answer) for answer in asks["answer"]]
    rows = pd.DataFrame(subtitles, columns=Subtitle._fields)
    asked = [any(s.start_s <= t < s.end_s for t in asks["time_s"]) for s in subtitles]
    found = [any(_holds(answer, normalise(s.text)) for answer in answers) for s in subtitles]
    return rows.assign(asked=asked, found=found)


def summarise(subtitles: list[Subtitle], asks: pd.DataFrame) -> pd.DataFrame:
    """The scores of a run: one row each, indexed by name, with columns `value`, `low`, `high` (Wilson, 95%) and `n`.

    Line recall counts every distinct text once, however often it is shown. The character error rate is the number of edits over
    the number of true characters, of all answers together; the errors within one answer are not independent, so it has no
    Wilson interval. A value with n = 0 is NaN.
    """
    scored = score_answers(subtitles, asks)
    blank = scored["truth"] == ""
    lines = score_lines(subtitles, asks)
    distinct = lines.groupby(lines["text"].map(normalise))[["asked", "found"]].any()
    rows = {
        "exact answers": _proportion(scored["exact"]),
        "exact answers, text on screen": _proportion(scored["exact"][~blank]),
        "right answers, blank screen": _proportion(scored["exact"][blank]),
        "line recall, lines on screen when asked": _proportion(distinct["found"][distinct["asked"]]),
        "line recall, all lines": _proportion(distinct["found"]),
        "character error rate": _corpus_cer(scored[~blank]),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "n"])


def _milliseconds(line: re.Match) -> str:
    """A timing line with hours and exactly three decimals: `srt` reads MM:SS as HH:MM and six decimals as milliseconds."""
    times = []
    for hours, minutes, seconds, decimals in (line.groups()[:4], line.groups()[4:]):
        thousandths = f"{decimals or '0':0<3}"[:3]
        times.append(f"{hours or '00'}:{minutes}:{seconds},{thousandths}")
    return " --> ".join(times)


def _text_read(answer: str, truth: str = "") -> str:
    """What an answer reads from the screen, after `normalise`: "" when it says that there is no text.

    A text such as "." counts as no text, except where it is the truth.
    """
    text = normalise(answer)
    return "" if is_no_text(answer) and text != normalise(truth) else text


def _holds(answer: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", answer) is not None


def _proportion(outcomes: pd.Series) -> tuple[float, float, float, int]:
    n, right = len(outcomes), int(outcomes.sum())
    if n == 0:
        return float("nan"), float("nan"), float("nan"), 0
    return right / n, *wilson(right, n), n


def _corpus_cer(scored: pd.DataFrame) -> tuple[float, float, float, int]:
    truth = [normalise(text) for text in scored["truth"]]
    read = [_text_read(answer, text) for answer, text in zip(scored["answer"], scored["truth"], strict=True)]
    value = jiwer.cer(truth, read) if truth else float("nan")
    return value, float("nan"), float("nan"), sum(map(len, truth))
