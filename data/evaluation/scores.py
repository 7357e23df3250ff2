"""Scores of the answers, and whether they meet the bars."""

import jiwer
import pandas as pd

from evaluation.streams import CONDITIONS
from kvlib.lab.study.statistics import count_by_stream, paired_difference

EXACT = {"current line": 0.95, "title": 0.92, "card": 0.92, "blank": 0.98, "absent card": 0.98}  # bars in chunks of 2 frames
LOWER = 0.02  # how much less the bars are with longer chunks and dropping
CER_BAR = 0.015
OTHER_EXACT, OTHER_CER = {"current line": 0.90}, 0.03  # bars in frames of another size


def score(answers: pd.DataFrame, by: list[str]) -> list[dict]:
    """For every group of the columns `by`: the share of exact answers with its 95% interval over streams, and the character
    error rate over all its characters."""
    rows = count_by_stream(answers, by, seed=0).to_dict("records")
    for row in rows:
        group = answers[(answers[by] == pd.Series({name: row[name] for name in by})).all(axis=1)]
        row["cer"] = jiwer.cer(group["truth"].tolist(), group["answer"].tolist())
    return rows


def verdicts(kinds: list[dict]) -> list[dict]:
    """Every bar with the measured value, for the rows of `score` by condition and kind."""
    found = {(row["condition"], row["kind"]): row for row in kinds}
    reference, *dropping, _, other = (condition.name for condition in CONDITIONS)
    bars = [(reference, EXACT, CER_BAR)]
    bars += [(name, {kind: bar - LOWER for kind, bar in EXACT.items()}, CER_BAR + LOWER) for name in dropping]
    bars += [(other, OTHER_EXACT, OTHER_CER)]
    rows = []
    for condition, exact, cer in bars:
        for kind, bar in exact.items():
            row = found[condition, kind]
            known = dict(condition=condition, bar=f"{kind}: exact >= {bar:.0%}", n=row["n"], measured=row["accuracy"])
            rows.append(known | dict(low=row["low"], high=row["high"], met=row["accuracy"] >= bar))
        row = found[condition, "current line"]
        known = dict(condition=condition, bar=f"current line: CER <= {cer:.1%}", n=row["n"], measured=row["cer"])
        rows.append(known | dict(low=None, high=None, met=row["cer"] <= cer))
    return rows


def differences(answers: pd.DataFrame, before: pd.DataFrame) -> list[dict]:
    """How much larger the share of exact answers is than that of the reader before, on the same questions, by condition and
    kind, with 95% intervals over streams."""
    both = pd.concat([answers.assign(reader="now"), before.assign(reader="before")])
    both = both.drop(columns="question").rename(columns={"kind": "question"})
    rows = []
    for (condition, kind), group in both.groupby(["condition", "question"], sort=False):
        found = paired_difference(group, "reader", "before", 0, [kind]).loc["now"]
        n = int((group["reader"] == "now").sum())
        rows.append(dict(condition=condition, kind=kind, n=n) | found.to_dict())
    return rows
