"""Order statistics of jackknife+ by sorting, for every rank."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.conformal import _plus_interval
from trustml.conformal._plus_interval import (
    chunks,
    plus_interval,
    residual_limits,
    warn_if_too_few,
    weighted_plus_interval,
)
from trustml.warnings import CoverageWarning


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 99), st.integers(0, 2**32))
def test_equals_sorting(n: int, m: int, percent: int, seed: int) -> None:
    rng, alpha = np.random.default_rng(seed), Fraction(percent, 100)
    centres, residuals = rng.normal(size=(m, n)), rng.exponential(size=n)
    found = plus_interval(centres, residuals, [alpha])[..., 0]
    low_rank = int((n + 1) * alpha)  # floor, exactly
    high_rank = -int(-((n + 1) * (1 - alpha)) // 1)  # ceil, exactly
    for row in range(m):
        lows, highs = sorted(centres[row] - residuals), sorted(centres[row] + residuals)
        assert found[row, 0] == (lows[low_rank - 1] if low_rank >= 1 else -np.inf)
        assert found[row, 1] == (highs[high_rank - 1] if high_rank <= n else np.inf)
    limit = np.sort(residuals)[high_rank - 1] if high_rank <= n else np.inf
    assert residual_limits(residuals, [alpha]).tolist() == [limit]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 99), st.integers(0, 2**32))
def test_whole_weights_are_repeated_rows(n: int, percent: int, seed: int) -> None:
    rng, alpha = np.random.default_rng(seed), Fraction(percent, 100)
    centres, residuals = rng.normal(size=(3, n)), rng.exponential(size=n)
    weights = rng.integers(1, 4, size=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        found = weighted_plus_interval(centres, residuals, [alpha], weights, np.ones(3))
    repeated = plus_interval(centres.repeat(weights, axis=1), residuals.repeat(weights), [alpha])
    np.testing.assert_array_equal(found, repeated)


def test_chunks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plus_interval, "_CHUNK_NUMBERS", 100)
    for n_rows, width in ((7, 30), (5, 1000), (250, 1)):
        parts = list(chunks(n_rows, width))
        assert np.concatenate(parts).tolist() == list(range(n_rows))
        assert max(len(p) for p in parts) <= max(1, 100 // width)


def test_too_few_rows_warn() -> None:
    with pytest.warns(CoverageWarning, match="at least 19"):
        warn_if_too_few(18, [Fraction(1, 20), Fraction(1, 2)])
    warn_if_too_few(19, [Fraction(1, 20)])
