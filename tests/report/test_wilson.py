"""Wilson's interval by its formula."""

import math

import pandas as pd
import pytest

from kvlib.lab.report.statistics import wilson


def formula(correct: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    share = correct / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@pytest.mark.parametrize(("correct", "n"), [(18, 32), (0, 5), (5, 5), (185, 200)])
def test_one_share(correct, n):
    assert wilson(correct, n) == pytest.approx(formula(correct, n), abs=1e-12)


def test_a_column_of_shares():
    low, high = wilson(pd.Series([1, 3]), pd.Series([2, 4]))
    assert list(zip(low, high, strict=True)) == [pytest.approx(formula(1, 2)), pytest.approx(formula(3, 4))]


def test_no_question_has_no_interval_and_impossible_counts_are_named():
    assert all(math.isnan(bound) for bound in wilson(0, 0))
    with pytest.raises(ValueError, match="right=3, n=2"):
        wilson(3, 2)
