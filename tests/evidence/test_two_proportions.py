"""Intervals of a difference and a ratio of two proportions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.evidence import newcombe, proportion_ratio


def test_newcombe_gives_the_papers_example():
    found = newcombe(56, 70, 48, 80)
    assert found.estimate == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("p", "q", "n", "m"), [(0.3, 0.5, 60, 40), (0.9, 0.95, 30, 30)])
def test_both_cover(p, q, n, m):
    rng = np.random.default_rng(0)
    draws = [(rng.binomial(n, p), rng.binomial(m, q)) for _ in range(1000)]
    assert np.mean([newcombe(a, n, b, m).contains(p - q) for a, b in draws]) > 0.93
    assert np.mean([proportion_ratio(a, n, b, m).contains(p / q) for a, b in draws]) > 0.93


def test_no_successes_still_leave_an_interval():
    assert newcombe(0, 10, 0, 20).low < 0 < newcombe(0, 10, 0, 20).high
    nothing = proportion_ratio(0, 10, 0, 20)
    assert math.isnan(nothing.estimate)
    assert (nothing.low, nothing.high) == (0.0, math.inf)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
@settings(max_examples=25, deadline=None)
def test_swapping_the_samples_mirrors_the_intervals(n, m, data):
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    one, other = newcombe(a, n, b, m), newcombe(b, m, a, n)
    assert one.low == pytest.approx(-other.high)
    ratio, inverse = proportion_ratio(a, n, b, m), proportion_ratio(b, m, a, n)
    if inverse.high not in (0.0, math.inf):
        assert ratio.low == pytest.approx(1 / inverse.high, rel=1e-6)
    assert one.low <= one.estimate <= one.high


@pytest.mark.parametrize("interval", [newcombe, proportion_ratio])
def test_bad_counts_are_refused(interval):
    with pytest.raises(ValueError, match="at most n"):
        interval(5, 4, 1, 2)
    with pytest.raises(ValueError, match="at least 1"):
        interval(0, 0, 1, 2)
