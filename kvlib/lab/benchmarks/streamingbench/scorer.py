"""The rules of StreamingBench: the first letter counts, and alerts have to come in time."""

MEAN_OVER = "questions"
TOTALS: dict[str, tuple[str, ...]] = {}  # its parts are reported one by one
IN_TIME_S = 2.0


def is_right(row: dict) -> bool:
    """Whether the answer of a row (`mode`, `truth`, `answer`, `time_s`, `due_s`) is right.

    Multiple choice: the answer begins with the right letter. An empty answer is wrong; the official count leaves it out. Mode
    "proactive": the last answer has the wanted output in it and came at most `IN_TIME_S` from when it was due.
    """
    if row["mode"] == "proactive":
        return abs(row["time_s"] - row["due_s"]) <= IN_TIME_S and row["truth"] in row["answer"]
    return row["answer"][:1] == row["truth"]
