"""Intervals of a proportion keep their level; the band is the Beta-Binomial's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, binomtest

from trustml.evidence import Interval, beta_binomial_band, clopper_pearson, wilson

counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=25, deadline=None)
@given(counts, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_equal_scipys(count: tuple[int, int], level: float) -> None:
    k, n = count
    reference = binomtest(k, n)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        expected = reference.proportion_ci(level, method=method)
        found = ours(k, n, level)
        np.testing.assert_allclose([found.low, found.high], expected, atol=1e-9)
        assert found.contains(k / n)
        assert found.estimate == k / n


@pytest.mark.parametrize("side", ["two-sided", "lower", "upper"])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_clopper_pearson_covers_at_every_proportion(n: int, side: str) -> None:
    k = np.arange(n + 1)
    intervals = [clopper_pearson(i, n, 0.9, side) for i in k]
    for p in np.linspace(0.001, 0.999, 199):
        covered = np.array([interval.contains(p) for interval in intervals])
        assert binom.pmf(k, n, p)[covered].sum() >= 0.9 - 1e-12


def test_one_sided_bounds_have_one_open_end() -> None:
    assert clopper_pearson(3, 10, side="lower").high == 1.0
    assert clopper_pearson(3, 10, side="upper").low == 0.0
    two = clopper_pearson(3, 10, level=0.9)
    assert clopper_pearson(3, 10, 0.95, "lower").low == pytest.approx(two.low)
    assert tuple(two) == (two.low, two.high)
    assert str(Interval(0.5, 0.25, 0.75, 0.95, "x")) == "0.5 [0.25, 0.75] (95%)"


@pytest.mark.parametrize(("n_cal", "n_test", "alpha"), [(99, 50, 0.1), (1000, 700, 0.05),
                                                        (19, 1, 0.3)])  # fmt: skip
def test_band_is_the_beta_binomials(n_cal: int, n_test: int, alpha: float) -> None:
    misses = int((n_cal + 1) * alpha + 1e-9)
    law = betabinom(n_test, n_cal + 1 - misses, misses)
    low, high = beta_binomial_band(n_cal, n_test, alpha, 0.95)
    assert (low, high) == (law.ppf(0.025) / n_test, law.ppf(0.975) / n_test)


def test_band_of_an_impossible_level_is_full_coverage() -> None:
    assert beta_binomial_band(8, 100, 0.1) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((5, 4), "at most n"), ((-1, 4), "successes"), ((1.5, 4), "whole"), ((0, 0), "n must"),
     ((1, 4, 1.0), "level"), ((1, 4, 0.9, "both"), "side")],
)  # fmt: skip
def test_bad_input(arguments: tuple, text: str) -> None:
    for interval in (clopper_pearson, wilson):
        with pytest.raises(ValueError, match=text):
            interval(*arguments)


def test_bad_band() -> None:
    for arguments in ((0, 5, 0.1), (5, 0, 0.1), (5, 5, 0.0), (5, 5, 0.1, 1.5)):
        with pytest.raises(ValueError, match="must be"):
            beta_binomial_band(*arguments)
