"""The confidence interval of a share: one definition for tables, scores and figures."""

import numpy as np
from statsmodels.stats.proportion import proportion_confint


def wilson(right, n):
    """The 95% Wilson interval of the share `right / n`.

    right, n: whole numbers, or Series (or arrays) of them. Returns (low, high) of the same kind: floats or Series; NaN where
    `n` is 0. A bound may pass 0 or 1 by a rounding error. Raises ValueError where `right` is not between 0 and `n`.
    """
    if np.any(np.asarray(right) < 0) or np.any(np.asarray(right) > np.asarray(n)):
        raise ValueError(f"right={right}, n={n}: count at least 0 and at most n right answers")
    with np.errstate(divide="ignore", invalid="ignore"):  # n = 0 gives NaN, which is what the caller is told
        return proportion_confint(right, n, method="wilson")
