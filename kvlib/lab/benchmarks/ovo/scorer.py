"""The rules of OVO-Bench: what counts as right without a judge, and which mean of which means is the score."""

import re

MEAN_OVER = "tasks"  # a mode's score is the mean of its tasks' shares, however many questions each has
TOTALS = {"total": ("backward", "real-time", "forward"), "total without forward": ("backward", "real-time")}


def is_right(row: dict) -> bool:
    """Whether the answer of a row (`task`, `truth`, `answer`) is right.

    Multiple choice: the right letter, a capital, is anywhere in the answer, be it as part of a word. REC: all digits of the
    answer, joined, are the count; so "1 or 2" is 12. SSR and CRR: "Yes" or "No" is in the answer, in this spelling and be it
    as part of a word, or the answer is exactly "Y" or "N".
    """
    answer, truth = row["answer"], row["truth"]
    if row["task"] == "REC":
        return "".join(re.findall(r"\d+", answer)) == truth
    if row["task"] in ("SSR", "CRR") and answer == truth[0]:
        return True
    return truth in answer
