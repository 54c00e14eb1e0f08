"""Tests of two samples: level by simulation, power, and agreement with scipy."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.evidence import (
    TestResult,
    binomial_test,
    energy_test,
    fourier_mmd_test,
    ks_test,
    mmd_test,
    permutation_test,
)


def difference(x: np.ndarray, y: np.ndarray) -> float:
    return float(x.mean() - y.mean())


@pytest.mark.parametrize("test", [mmd_test, energy_test])
def test_level_and_power(test: object) -> None:
    rng, runs = np.random.default_rng(0), 200
    p = [
        test(rng.normal(size=(15, 2)), rng.normal(size=(20, 2)), n_permutations=39,
             random_state=rng).p_value
        for _ in range(runs)
    ]  # fmt: skip
    # Exact level 0.1; false alarm of this bound 1e-4.
    assert np.sum(np.asarray(p) <= 0.1) <= binom.ppf(1 - 1e-4, runs, 0.1)
    assert np.min(p) >= 1 / 40
    shifted = test(rng.normal(size=(60, 2)), rng.normal(size=(60, 2)) + 1, random_state=0)
    assert shifted.p_value <= 0.01
    assert (
        shifted.effect_size
        > test(rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), random_state=0).effect_size
    )


def test_energy_statistic_is_its_definition() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(9, 3)) + 1
    d = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=2).mean()  # noqa: E731
    expected = 2 * d(x, y) - d(x, x) - d(y, y)
    found = energy_test(x, y, n_permutations=9, random_state=0)
    assert found.statistic == pytest.approx(expected, rel=1e-10)
    assert found.effect_size == pytest.approx(expected / (2 * d(x, y)), rel=1e-10)


def test_mmd_statistic_is_its_definition_far_from_the_origin() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(7, 3)) + 1e6, rng.normal(size=(9, 3)) + 1e6 + 1
    k = lambda a, b: np.exp(-(((a[:, None] - b[None]) ** 2).sum(2)) / 8)  # noqa: E731
    expected = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    found = mmd_test(x, y, bandwidth=2.0, n_permutations=9, random_state=0)
    assert found.statistic == pytest.approx(expected, abs=1e-9)
    off = lambda a: (k(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))  # noqa: E731
    unbiased = off(x) + off(y) - 2 * k(x, y).mean()
    assert found.effect_size == pytest.approx(max(0.0, unbiased) ** 0.5, abs=1e-5)


def test_large_samples_are_thinned_and_say_so() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4, 2))
    found = mmd_test(x, torch.from_numpy(x), max_rows=20, n_permutations=19, random_state=0)
    assert found.n == (20, 20)
    assert found == mmd_test(x, x, max_rows=20, n_permutations=19, random_state=0)


def test_permutation_test_against_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=6), rng.normal(size=5) + 1
    exact = scipy.stats.permutation_test((x, y), difference, alternative="less").pvalue
    found = permutation_test(difference, x, y, 4000, random_state=0, alternative="less")
    assert found.p_value == pytest.approx(exact, abs=0.02)
    assert found.effect_size < 0
    assert found.n == (6, 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["two-sided", "greater", "less"]))
def test_p_values_lie_between_their_least_and_one(seed: int, alternative: str) -> None:
    rng = np.random.default_rng(seed)
    found = permutation_test(
        difference, rng.normal(size=5), rng.normal(size=4), 20, seed, alternative
    )
    assert 1 / 21 <= found.p_value <= 1


def test_constant_statistic_is_no_evidence() -> None:
    found = permutation_test(difference, np.ones(4), np.ones(4), 20, random_state=0)
    assert (found.p_value, found.effect_size) == (1.0, None)


def test_ks_and_binomial_are_scipys() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=40), rng.normal(size=50)
    assert ks_test(x, y).p_value == pytest.approx(scipy.stats.ks_2samp(x, y).pvalue)
    u = rng.uniform(size=40)
    assert ks_test(u).p_value == pytest.approx(scipy.stats.kstest(u, "uniform").pvalue)
    assert ks_test(rng.normal(size=600), rng.normal(size=600)).n == (600, 600)
    found = binomial_test(30, 100, 0.2, "greater")
    assert found.p_value == pytest.approx(binom.sf(29, 100, 0.2))
    assert found.effect_size == pytest.approx(0.1)
    assert isinstance(found, TestResult)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mmd_test(np.ones((3, 2)), np.ones((3, 4))), "same features"),
        (lambda: energy_test(np.ones((1, 2)), np.ones((3, 2))), "at least 2 rows"),
        (lambda: mmd_test([[np.nan], [1.0]], np.ones((3, 1))), "NaN"),
        (lambda: mmd_test(np.ones((3, 1)), np.ones((3, 1)), bandwidth=0), "bandwidth"),
        (lambda: mmd_test(np.ones((3, 1)), np.ones((3, 1)), bandwidth="mean"), "bandwidth"),
        (lambda: mmd_test(np.ones((3, 1)), np.ones((3, 1)), n_permutations=0), "n_permutations"),
        (lambda: permutation_test(difference, [], [1.0]), "must have rows"),
        (lambda: permutation_test(difference, [1.0], [[1.0]]), "rows of one shape"),
        (lambda: permutation_test(difference, [1.0], [2.0], alternative="up"), "alternative"),
        (lambda: permutation_test(lambda x, y: np.nan, [1.0], [2.0]), "finite"),
        (lambda: ks_test([]), "empty"),
        (lambda: binomial_test(5, 4, 0.5), "at most n"),
        (lambda: binomial_test(1, 4, 1.5), "p0"),
    ],
)
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_ks_of_the_smallest_gap_is_one_without_a_warning() -> None:
    # scipy warns that its exact law fails at a gap of 1/n between samples of equal size.
    assert ks_test(np.zeros(30), np.r_[1.0, np.zeros(29)]).p_value == 1.0


@pytest.mark.parametrize("test", [mmd_test, fourier_mmd_test, energy_test])
def test_rows_that_are_all_one_do_not_differ_by_rounding(test: object) -> None:
    for value in (0.0, 0.123, 1e6):
        rows = np.full((90, 3), value)
        assert test(rows[:50], rows[50:], random_state=0).p_value == 1.0
