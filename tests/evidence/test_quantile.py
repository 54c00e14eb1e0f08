"""The rank is exact, and a calibration set that is too small says so."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.evidence import conformal_rank, exact_alpha, quantile
from trustml.warnings import CoverageWarning


def test_rank_equals_integer_arithmetic_for_every_small_n() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 201.0))
    for n in range(1, 201):
        sample = np.sort(scores)[:n][::-1]
        for thousandths in (*range(10, 1000, 10), 1, 5, 25, 125, 333, 875, 975, 999):
            rank = -((n + 1) * (thousandths - 1000) // 1000)
            assert conformal_rank(n, thousandths / 1000) == rank
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CoverageWarning)
                found = quantile(sample, thousandths / 1000)
            assert found == (rank if rank <= n else math.inf)


@pytest.mark.parametrize(
    "alpha",
    [0.3, np.float64(0.3), np.float32(0.3), np.float16(0.3), float(np.float32(0.3)),
     torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64), Fraction(3, 10), 1 - 0.7],
)  # fmt: skip
def test_alpha_is_the_decimal_that_was_written(alpha: object) -> None:
    assert exact_alpha(alpha) == Fraction(3, 10)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10**9 - 1))
def test_nine_decimals_survive(billionths: int) -> None:
    assert exact_alpha(billionths / 10**9) == Fraction(billionths, 10**9)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.inf), min_size=1, max_size=60),
    st.integers(1, 99),
)
def test_quantile_is_the_smallest_score_with_enough_below(scores: list, percent: int) -> None:
    need = Fraction(100 - percent, 100) * (len(scores) + 1)
    enough = [s for s in scores if sum(t <= s for t in scores) >= need]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        assert quantile(scores, percent / 100) == min(enough, default=math.inf)


def test_too_small_warns_with_the_number_that_is_needed() -> None:
    with pytest.warns(CoverageWarning, match=r"8 calibration scores.*coverage 0\.9.*at least 9"):
        assert quantile(np.arange(8), 0.1) == math.inf
    assert quantile(np.arange(9), 0.1) == 8


def test_scores_are_not_touched() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    quantile(scores, 0.5)
    assert scores.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("scores", "alpha", "error", "text"),
    [
        ([], 0.1, ValueError, "empty"),
        ([0.1, np.nan], 0.1, ValueError, "NaN.*index 1"),
        ([[0.1, 0.2]], 0.1, ValueError, "1-d"),
        (["a"], 0.1, TypeError, "numbers"),
        ([0.1], 0.0, ValueError, "alpha"),
        ([0.1], 1.0, ValueError, "alpha"),
        ([0.1], 1e-12, ValueError, "alpha"),
        ([0.1], math.nan, ValueError, "alpha"),
        ([0.1], "0.1", TypeError, "alpha"),
        ([0.1], [0.1, 0.2], TypeError, "alpha"),
    ],
)
def test_bad_input(scores: object, alpha: object, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        quantile(scores, alpha)
