"""Confidence intervals of a share and of a median, and shares without rounding errors: one definition for all of the lab."""

import numpy as np
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

FEWEST = 6  # streams or videos: the true median lies outside the range of fewer values in more than 5% of all samples
DECIMALS = 12  # of a share or a difference of shares: fp64 computes them to about 16 digits


def without_rounding_error(shares):
    """Shares, or differences of shares, to `DECIMALS` decimals: 1e-17, which stands for 0, becomes 0, and never -0.

    A criterion that compares an interval with 0 must not be decided by a rounding error. shares: a number, a Series, or a list
    or an array, which gives an array. NaN stays NaN.
    """
    return np.round(shares, DECIMALS) + 0.0


def with_interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    """The text "value [low, high]", each number in the format `form`, or the value alone where there is no interval (NaN)."""
    return f"{value:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def wilson(right, n):
    """The 95% Wilson interval of the share `right / n`.

    right, n: whole numbers, or Series (or arrays) of them. Returns (low, high) of the same kind: floats or Series; NaN where
    `n` is 0. The lower bound of no right answers is 0, the upper bound of right ones only is 1.
    Raises ValueError where `right` is not between 0 and `n`.
    """
    if np.any(np.asarray(right) < 0) or np.any(np.asarray(right) > np.asarray(n)):
        raise ValueError(f"right={right}, n={n}: count at least 0 and at most n right answers")
    with np.errstate(divide="ignore", invalid="ignore"):  # n = 0 gives NaN, which is what the caller is told
        low, high = proportion_confint(right, n, method="wilson")
    return without_rounding_error(low), without_rounding_error(high)


def median_interval(values) -> tuple[float, float]:
    """The 95% interval of the median by order statistics: it assumes nothing about how the `values` are distributed.

    At least 95% of samples of this size have the true median between the two values returned. NaN for fewer than `FEWEST`
    values, which cannot say that much.
    """
    ordered = np.sort(np.asarray(values, float))
    if len(ordered) < FEWEST:
        return float("nan"), float("nan")
    below = int(binom.ppf(0.025, len(ordered), 0.5))
    return float(ordered[below - 1]), float(ordered[-below])
