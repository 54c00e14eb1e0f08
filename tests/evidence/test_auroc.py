"""Intervals of the AUROC, and of the difference of two."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from trustml.evidence import auroc_difference, auroc_interval
from trustml.evidence._delong import delong_covariance

few = settings(max_examples=40, deadline=None)


def kernel(inside, outside):
    """Return 1 where out is above in, a half where they tie, shape (n, m)."""
    return (outside > inside[:, None]) + (outside == inside[:, None]) / 2.0


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_it_covers_the_truth_about_as_often_as_it_says(shift):
    rng = np.random.default_rng(0)
    truth = norm.cdf(shift / np.sqrt(2))
    hits = sum(
        auroc_interval(rng.normal(size=40), rng.normal(shift, 1, 60), 0.9).contains(truth)
        for _ in range(400)
    )
    assert 0.86 <= hits / 400 <= 0.97


def test_perfect_separation_keeps_a_width_that_shrinks_with_n():
    few, many = (auroc_interval(np.arange(n), np.arange(n) + n) for n in (10, 1000))
    assert few.estimate == many.estimate == 1.0
    assert few.low < many.low < 1.0
    assert few.high == pytest.approx(1.0)


def test_swapping_the_samples_mirrors_it():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.normal(0.5, 1, 20)
    there, back = auroc_interval(a, b), auroc_interval(b, a)
    assert there.low == pytest.approx(1 - back.high)
    assert there.estimate == pytest.approx(1 - back.estimate)


def test_ties_count_half():
    assert auroc_interval([1.0, 2.0], [2.0, 3.0]).estimate == 0.875


@pytest.mark.parametrize(
    ("scores_in", "level", "text"),
    [([], 0.95, "empty"), ([np.nan], 0.95, "NaN"), ([[1.0]], 0.95, "1-d"), ([1.0], 1.5, "level")],
)
def test_bad_input_names_the_fix(scores_in, level, text):
    with pytest.raises(ValueError, match=text):
        auroc_interval(scores_in, [1.0, 2.0], level)


@few
@given(st.integers(0, 2**32), st.booleans())
def test_the_covariance_is_delongs_formula_written_out(seed, ties):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 12, 2)
    inside, outside = rng.normal(size=(3, n)), rng.normal(0.5, 1, (3, m))
    if ties:
        inside, outside = inside.round(), outside.round()
    areas, covariance = delong_covariance(inside, outside)
    k = np.stack([kernel(a, b) for a, b in zip(inside, outside, strict=True)])
    np.testing.assert_allclose(areas, k.mean((1, 2)), rtol=1e-12)
    v10, v01 = k.mean(1) - areas[:, None], k.mean(2) - areas[:, None]
    expected = v10 @ v10.T / (m - 1) / m + v01 @ v01.T / (n - 1) / n
    np.testing.assert_allclose(covariance, expected, atol=1e-14)


@pytest.mark.parametrize("shift", [0.5, 1.5])
def test_delongs_interval_covers_with_ties_too(shift):
    rng, runs, covered = np.random.default_rng(0), 400, 0
    grid = np.arange(-12, 16) / 2  # scores rounded to halves
    p = [np.diff(norm.cdf(np.r_[grid - 0.25, np.inf], mean)) for mean in (0, shift)]
    below = np.cumsum(p[0]) - p[0] / 2
    truth = float(np.sum(p[1] * below))
    for _ in range(runs):
        inside, outside = rng.normal(size=100), rng.normal(shift, 1, 80)
        covered += auroc_interval(
            np.round(inside * 2) / 2, np.round(outside * 2) / 2, 0.9, method="delong"
        ).contains(truth)
    low, high = binom.ppf([1e-4, 1 - 1e-4], runs, 0.9)
    assert low - 0.02 * runs <= covered <= high  # a little below its level at this size


def test_equal_detectors_are_told_apart_no_more_often_than_said():
    rng, runs, rejected, covered = np.random.default_rng(0), 400, 0, 0
    for _ in range(runs):
        common_in, common_out = rng.normal(size=60), rng.normal(1, 1, 60)
        first, second = (
            (common_in + rng.normal(size=60), common_out + rng.normal(size=60)) for _ in range(2)
        )
        found = auroc_difference(*first, *second)
        rejected += found.p_value <= 0.05
        covered += found.difference.contains(0.0)
        assert found.correlation > -0.2
    assert rejected <= binom.ppf(1 - 1e-4, runs, 0.06)
    assert rejected >= binom.ppf(1e-4, runs, 0.04)
    assert covered == runs - rejected, "interval and p-value are one verdict"


def test_pairing_is_worth_power():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=150), rng.normal(1, 1, 150)
    better = inside - 0.1, outside + 0.1 + 0.1 * rng.normal(size=150)
    paired = auroc_difference(*better, inside, outside)
    assert paired.correlation > 0.9
    assert paired.p_value < 1e-3
    assert not auroc_interval(*better, method="delong").low > paired.second, "alone it is not sure"
    assert paired.first - paired.second == pytest.approx(paired.difference.estimate)


@few
@given(st.integers(0, 2**32))
def test_order_of_rows_and_monotone_changes_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    a, b, c, d = (rng.normal(size=20).round(1) for _ in range(4))
    found = auroc_difference(a, b, c, d)
    order = rng.permutation(20)
    again = auroc_difference(np.exp(a[order]), np.exp(b), 1e4 * c[order] - 3, 1e4 * d - 3)
    assert again.p_value == pytest.approx(found.p_value)
    swapped = auroc_difference(c, d, a, b)
    assert swapped.difference.low == pytest.approx(-found.difference.high)
    assert swapped.p_value == pytest.approx(found.p_value)


def test_scores_that_do_not_vary_in_their_places():
    same = np.arange(10.0), np.arange(10.0) + 5.5
    equal = auroc_difference(*same, *same)
    assert (equal.p_value, *equal.difference) == (1.0, 0.0, 0.0)
    perfect = np.arange(10.0), np.arange(10.0) + 10
    dead = np.zeros(10), np.zeros(10)
    gap = auroc_difference(*perfect, *dead)
    assert (gap.p_value, gap.difference.estimate, gap.correlation) == (0.0, 0.5, 0.0)


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="scores of the same rows, got 2 and 3"):
        auroc_difference([0.0, 1.0], [1.0, 2.0], [0.0, 1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least 2 rows of each sample, got 2 and 1"):
        auroc_difference([0.0, 1.0], [1.0], [0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="method must be one of"):
        auroc_interval([0.0, 1.0], [1.0], method="wald")


def test_infinite_scores_are_refused():
    good, bad = [0.0, 1.0, 2.0], [1.0, np.inf, 3.0]
    for method in ("newcombe", "delong"):
        with pytest.raises(ValueError, match="scores_out"):
            auroc_interval(good, bad, method=method)
    with pytest.raises(ValueError, match="second_in"):
        auroc_difference(good, good, [0.0, -np.inf, 1.0], good)
