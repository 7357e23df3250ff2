"""Answers, and the subtitles joined from them, scored against the true text.

Texts are compared after `normalise`: Unicode form and white space do not count, letters' case and punctuation do,
because the question asks for the text verbatim.
"""

import re

import jiwer
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from kvlib.lab.report.statistics import wilson
from kvlib.lab.video.lines import is_no_text, normalise, text_distance
from kvlib.lab.video.subtitles import Subtitle, shown_together, truth_at

TIME_DECIMALS = 6  # of a difference of times in seconds: frames and subtitles are further apart than a microsecond
SAME_TEXT = 0.5  # of the longer text's characters: up to this distance what was read can be a reading of a true text
MISREAD = 0.1  # of the longer text's characters: up to this distance an answer is the right text, misread


def exact_match(answer: str, truth: str) -> bool:
    """Whether `answer` is the text `truth` after `normalise`; where `truth` is empty, whether it says that there is no text."""
    truth = normalise(truth)
    return normalise(answer) == truth or (not truth and is_no_text(answer))


def verdict_of(answer: str, truth: str) -> bool | None:
    """True for an exact answer. None up to a distance of `MISREAD`: the text was remembered, and the model misread it. Else
    False."""
    return exact_match(answer, truth) or (None if text_distance(answer, truth) <= MISREAD else False)


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


def score_subtitles(truth: list[Subtitle], read: list[Subtitle], ask_times) -> pd.DataFrame:
    """One row per text on screen, with the subtitle of `read` that is its reading, found by text and by time; then one row per
    subtitle of `read` that is a reading of none.

    truth: subtitles; those with the same times are one text, and a text that is repeated without a gap is one too, because the
    screen does not change. read: `join_lines` of the answers. ask_times: seconds of the questions.

    A true and a read subtitle can belong together when they overlap in time and differ in at most half of the characters. Each
    belongs to one other at most; the assignment maximises the sum of text similarity and temporal IoU.

    Columns: `start_s`, `end_s`, `text` of the truth; `asked`: whether a question was asked while it was on screen; `found`:
    whether it has a reading; `read_start_s`, `read_end_s`, `read_as` of the reading; `iou`: temporal intersection over union.
    What is not there is NaN; a missing text is None.
    """
    truth = _on_screen(truth)
    weights = np.array([[_weight(t, r) for r in read] for t in truth]).reshape(len(truth), len(read))
    pairs = {i: j for i, j in zip(*linear_sum_assignment(weights, maximize=True), strict=True) if weights[i, j] > 0}
    nothing, rows = Subtitle(np.nan, np.nan, None), []
    for i, text in enumerate(truth):
        reading = read[pairs[i]] if i in pairs else nothing
        asked = any(text.start_s <= time_s < text.end_s for time_s in ask_times)
        rows.append((*text, asked, i in pairs, *reading, _iou(text, reading) if i in pairs else np.nan))
    rows += [(*nothing, False, False, *r, np.nan) for j, r in enumerate(read) if j not in pairs.values()]
    columns = [*Subtitle._fields, "asked", "found", "read_start_s", "read_end_s", "read_as", "iou"]
    return pd.DataFrame(rows, columns=columns)


def summarise_subtitles(scored: pd.DataFrame, ask_times) -> pd.DataFrame:
    """The scores of subtitles, from the table of `score_subtitles`: rows and columns as in `summarise`.

    Recall is of the texts that were on screen when asked, precision of what was read. The other values are of the texts with a
    reading: the character error rate, absolute errors of the times in seconds, the shares of times that are at most one ask
    interval off (the median time between questions), and the mean temporal IoU. A value with n = 0 is NaN.
    """
    found = scored[scored["found"]]
    interval_s = float(np.median(np.diff(ask_times, prepend=0.0)))
    errors = {name: (found[f"read_{name}_s"] - found[f"{name}_s"]).abs().round(TIME_DECIMALS) for name in ("start", "end")}
    within = {name: error <= interval_s + 1e-6 for name, error in errors.items()}  # for rounding errors
    texts = found["text"].map(normalise).tolist()
    cer = jiwer.cer(texts, found["read_as"].map(normalise).tolist()) if texts else np.nan
    rows = {
        "subtitle recall, on screen when asked": _proportion(scored["found"][scored["asked"]]),
        "subtitle precision": _proportion(scored["found"][scored["read_start_s"].notna()]),
        "subtitle character error rate": _unbounded(cer, sum(map(len, texts))),
    }
    for name in ("start", "end"):
        rows[f"subtitle {name} error, median (s)"] = _unbounded(errors[name].median(), len(found))
        rows[f"subtitle {name} error, worst (s)"] = _unbounded(errors[name].max(), len(found))
        rows[f"subtitle {name}s within one ask interval"] = _proportion(within[name])
    rows["subtitles with both times within one ask interval"] = _proportion(within["start"] & within["end"])
    rows["subtitle temporal IoU, mean"] = _unbounded(found["iou"].mean(), len(found))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "n"])


def _on_screen(truth: list[Subtitle]) -> list[Subtitle]:
    """What can be told apart on screen: see `score_subtitles`."""
    seen: list[Subtitle] = []
    for text in shown_together(truth):
        before = next((i for i, s in enumerate(seen) if s.end_s >= text.start_s and _same(s.text, text.text)), None)
        if before is None:
            seen.append(text)
        else:
            seen[before] = seen[before]._replace(end_s=max(seen[before].end_s, text.end_s))
    return seen


def _same(a: str, b: str) -> bool:
    return normalise(a) == normalise(b)


def _weight(truth: Subtitle, read: Subtitle) -> float:
    """How well a reading fits a true text, 0 where it cannot be its reading."""
    iou = _iou(truth, read)
    distance = text_distance(truth.text, read.text) if iou else 1.0
    return 1 - distance + iou if distance <= SAME_TEXT else 0.0


def _iou(a: Subtitle, b: Subtitle) -> float:
    common = max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))
    return common / (a.end_s - a.start_s + b.end_s - b.start_s - common)


def _unbounded(value: float, n: int) -> tuple[float, float, float, int]:
    """A value without an interval."""
    return value, float("nan"), float("nan"), n


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
    return _unbounded(value, sum(map(len, truth)))
