"""Wilson's interval by its formula."""

import math

import numpy as np
import pandas as pd
import pytest

from kvlib.lab.report.statistics import wilson, without_rounding_error


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


def test_none_or_all_of_any_number_have_exact_bounds():
    for n in range(1, 200):
        assert wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1
    low, high = wilson(pd.Series([0, 18]), pd.Series([18, 18]))
    assert low[0] == 0 and high[1] == 1


def test_rounding_errors_are_no_difference_and_small_differences_are_one():
    rounded = without_rounding_error([1.388e-17, -1.388e-17, 1e-9, -1 / 3, math.nan])
    assert rounded[:2].tolist() == [0, 0] and not np.signbit(rounded[:2]).any(), "-0 would be shown as -0.00"
    assert rounded[2:4] == pytest.approx([1e-9, -1 / 3], abs=1e-12) and math.isnan(rounded[4])
    assert f"{without_rounding_error(-1.388e-17):+.2f}" == "+0.00"
