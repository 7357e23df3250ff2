"""From rows to scores: shares of right answers by task, means by mode and in total, with intervals, and a LaTeX table."""

from types import ModuleType

import numpy as np
import pandas as pd

from kvlib.lab.benchmarks.streaming import ANSWERED
from kvlib.lab.figures import tables
from kvlib.lab.figures.tables import percent
from kvlib.lab.report.statistics import FEWEST, wilson

DRAWS = 9_999  # of the bootstrap


def judged(rows: pd.DataFrame, scorer: ModuleType) -> pd.DataFrame:
    """The rows with a column `right`: 1, 0, or missing where there is no answer."""
    right = [
        bool(scorer.is_right(row | {"answer": row["counted"]})) if row["status"] == ANSWERED else None
        for row in rows.to_dict("records")
    ]
    return rows.assign(right=pd.array(right, dtype="Int64"))


def by_task(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per mode and task of `judged` rows, in their order: `right`, `n` (answers), `left_out` (questions without one),
    `share` and its 95% Wilson interval `low`, `high`; NaN without an answer, the interval also with answers about fewer than
    `FEWEST` videos."""
    answered = rows.assign(video=rows["video"].where(rows["right"].notna()))
    groups = answered.groupby(["mode", "task"], sort=False)
    counted = groups["right"].agg(right="sum", n="count", left_out=lambda x: x.isna().sum()).astype(int)
    counted["share"] = counted["right"] / counted["n"].where(counted["n"] > 0)
    counted["low"], counted["high"] = wilson(counted["right"], counted["n"])
    counted.loc[groups["video"].nunique() < FEWEST, ["low", "high"]] = np.nan
    return counted.reset_index()


def by_mode(rows: pd.DataFrame, scorer: ModuleType, seed: int = 0) -> pd.DataFrame:
    """One row per mode of `judged` rows, and one per total of the scorer all of whose modes have answers: `mode`, `score` with
    its interval `low`, `high`, `n`, `left_out`.

    A mode's score is the mean over its tasks or over its questions, as `scorer.MEAN_OVER` says, a total's the mean over its
    modes. Questions about one video are not independent, so the interval is of a 95% bootstrap over videos: percentiles of
    9,999 draws; a draw without a question of some task leaves it out. Where all draws are the same, it is the Wilson interval
    of one question per video. There is no interval (NaN) where one of the parts that the mean is over, tasks or modes, has
    answers about fewer than `FEWEST` videos.
    """
    per_task = scorer.MEAN_OVER == "tasks"
    keyed = rows.assign(group=rows["mode"] + (" " + rows["task"] if per_task else ""))
    found = keyed[keyed["right"].notna()]
    modes = [mode for mode in rows["mode"].unique() if (found["mode"] == mode).any()]
    if not modes:
        return pd.DataFrame(columns=["mode", "score", "low", "high", "n", "left_out"])
    right, count = (found.pivot_table("right", "video", "group", how, fill_value=0).astype(float) for how in ("sum", "count"))
    mode_of = found.drop_duplicates("group").set_index("group")["mode"].reindex(right.columns).to_numpy()
    rng, videos = np.random.default_rng(seed), len(right)
    weights = np.vstack([np.ones(videos), rng.multinomial(videos, np.full(videos, 1 / videos), DRAWS)])
    with np.errstate(invalid="ignore"):  # 0 / 0 of a draw without the task
        shares = (weights @ right.to_numpy()) / (weights @ count.to_numpy())
    means = {mode: _mean([shares[:, at] for at in np.flatnonzero(mode_of == mode)]) for mode in modes}
    members = {mode: (mode,) for mode in modes}
    members |= {name: parts for name, parts in scorer.TOTALS.items() if set(parts) <= set(modes)}
    made = []
    for name, parts in members.items():
        drawn, these = _mean([means[part] for part in parts]), keyed["mode"].isin(parts)
        about = found[found["mode"].isin(parts)].groupby("group")["video"].nunique().min()
        low, high = np.nanpercentile(drawn[1:], [2.5, 97.5]) if about >= FEWEST else (np.nan, np.nan)
        if np.isclose(low, high):
            low, high = wilson(drawn[0] * about, about)
        answered = int(keyed.loc[these, "right"].count())
        made.append(dict(mode=name, score=drawn[0], low=low, high=high, n=answered, left_out=int(these.sum()) - answered))
    return pd.DataFrame(made)


def left_out(rows: pd.DataFrame) -> pd.DataFrame:
    """How many questions were not answered, one row per reason: `status`, `problem`, `videos`, `questions`."""
    lost = rows[rows["status"] != ANSWERED]
    counted = lost.groupby(["status", "problem"], sort=False).agg(videos=("video", "nunique"), questions=("id", "count"))
    return counted.reset_index()


def latex(tasks: pd.DataFrame, modes: pd.DataFrame, caption: str) -> str:
    """A LaTeX table (booktabs) of `by_task` and `by_mode`: percentages with their 95% intervals, and n."""
    lines = []
    for mode in modes.itertuples():
        for task in tasks[tasks["mode"] == mode.mode].itertuples():
            lines.append((task.task, percent(task.share, task.low, task.high), task.n, task.left_out))
        lines.append((f"{mode.mode}, mean", percent(mode.score, mode.low, mode.high), mode.n, mode.left_out))
    table = pd.DataFrame(lines, columns=["task", "right (%)", "n", "left out"])
    return tables.latex(table, caption)


def _mean(parts: list[np.ndarray]) -> np.ndarray:
    """The mean of the parts that are numbers, draw by draw; NaN where none is."""
    stacked = np.vstack(parts)
    known = ~np.isnan(stacked)
    count = known.sum(0)
    return np.where(known, stacked, 0).sum(0) / np.where(count, count, np.nan)
