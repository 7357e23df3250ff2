"""The interval that every share in the reports and figures has."""

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

Number = float | pd.Series


def wilson_interval(correct: Number, n: Number) -> tuple[Number, Number]:
    """The 95% Wilson score interval (low, high) of the share `correct` / `n`, for one share or a column of them."""
    return proportion_confint(correct, n, alpha=0.05, method="wilson")
