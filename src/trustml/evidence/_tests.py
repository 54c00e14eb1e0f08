"""Tests of one or two samples of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, to_numpy
from trustml.evidence._checks import as_vector, check_count, check_probability


@dataclass(frozen=True)
class TestResult:
    """What a test found.

    Attributes
    ----------
    statistic : float
        The test statistic.
    p_value : float
        Probability, under the null, of a statistic at least as extreme.
    effect_size : float or None
        Size of the effect on a scale that does not grow with n; ``method`` says which test.
    method : str
        The test, with its alternative.
    n : tuple of int
        Rows of each sample that were used.
    """

    __test__: ClassVar[bool] = False  # pytest would collect a class of this name

    statistic: float
    p_value: float
    effect_size: float | None
    method: str
    n: tuple[int, ...]


_ALTERNATIVES = ("two-sided", "greater", "less")


def binomial_test(k: Any, n: Any, p0: float, alternative: str = "two-sided") -> TestResult:
    """Exact test that a proportion is ``p0``.

    Parameters
    ----------
    k : int
        Successes, 0..n.
    n : int
        Independent trials.
    p0 : float in (0, 1)
        Proportion under the null.
    alternative : {"two-sided", "greater", "less"}
        What the proportion is instead of ``p0``.

    Returns
    -------
    TestResult
        ``statistic`` is k / n, ``effect_size`` is k / n - p0.

    Raises
    ------
    ValueError
        If k exceeds n.

    Examples
    --------
    >>> round(binomial_test(80, 100, 0.9, alternative="less").p_value, 4)
    0.002
    """
    from scipy.stats import binomtest

    check_choice(alternative, "alternative", _ALTERNATIVES)
    trials, successes = check_count(n, "n"), check_count(k, "k", least=0)
    if successes > trials:
        raise ValueError(f"k must be at most n = {trials}, got {successes}")
    null = check_probability(p0, "p0")
    p_value = float(binomtest(successes, trials, null, alternative=alternative).pvalue)
    share = successes / trials
    return TestResult(share, p_value, share - null, f"binomial, {alternative}", (trials,))


def permutation_test(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    x: Any,
    y: Any,
    n_permutations: int = 999,
    random_state: RandomState = None,
    alternative: str = "two-sided",
) -> TestResult:
    """Test that two samples have one distribution, by shuffling which row is whose.

    Valid for any statistic and any n: p = (1 + #{shuffled at least as extreme}) / (B + 1).

    Parameters
    ----------
    statistic : callable (x, y) -> float
        For example a difference of means.
    x, y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are exchanged.
    n_permutations : int
        Shuffles B; the smallest p-value is 1 / (B + 1).
    random_state : int, Generator or None
        Seed of the shuffles.
    alternative : {"two-sided", "greater", "less"}
        "greater": large values speak against the null. "two-sided": both ends, the smaller
        tail doubled.

    Returns
    -------
    TestResult
        ``statistic`` on the data; ``effect_size`` is it in standard deviations of the
        shuffled statistics, counted from their mean (None if these do not vary).

    Raises
    ------
    ValueError
        If a sample is empty, the row shapes differ, or the statistic is not finite.

    Examples
    --------
    >>> found = permutation_test(
    ...     lambda x, y: x.mean() - y.mean(), range(10), range(20, 30), random_state=0
    ... )
    >>> found.statistic, found.p_value < 0.01
    (-20.0, True)
    """
    check_choice(alternative, "alternative", _ALTERNATIVES)
    first, second = np.asarray(to_numpy(x)), np.asarray(to_numpy(y))
    if first.ndim == 0 or second.ndim == 0 or first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"x and y must have rows of one shape, got {first.shape} and {second.shape}"
        )
    if len(first) == 0 or len(second) == 0:
        raise ValueError(f"x and y must have rows, got {len(first)} and {len(second)}")
    count = check_count(n_permutations, "n_permutations")
    observed = float(statistic(first, second))
    if not np.isfinite(observed):
        raise ValueError(f"statistic(x, y) must be finite, got {observed}")
    rng, pooled = numpy_generator(random_state), np.concatenate([first, second])
    shuffled = np.empty(count)
    for b in range(count):
        mixed = pooled[rng.permutation(len(pooled))]
        shuffled[b] = statistic(mixed[: len(first)], mixed[len(first) :])
    if np.isnan(shuffled).any():
        raise ValueError("statistic is NaN on a shuffled sample; make it defined for any split")
    p_value = permutation_pvalue(observed, shuffled, alternative)
    spread = float(shuffled.std())
    effect = (observed - float(shuffled.mean())) / spread if spread > 0 else None
    method = f"permutation ({count}), {alternative}"
    return TestResult(observed, p_value, effect, method, (len(first), len(second)))


def permutation_pvalue(
    observed: float, shuffled: np.ndarray, alternative: str, rounding: float = 0.0
) -> float:
    """Rank ``observed`` among shuffled values; ties count against the alternative."""
    # A shuffle that returns the same partition may differ by rounding: count it as a tie. Where
    # all values are zero up to the error of their computation, ``rounding`` is that error.
    slack = max(rounding, 1e-10 * max(abs(observed), float(np.abs(shuffled).max())))
    above = (1 + np.count_nonzero(shuffled >= observed - slack)) / (len(shuffled) + 1)
    below = (1 + np.count_nonzero(shuffled <= observed + slack)) / (len(shuffled) + 1)
    if alternative == "greater":
        return float(above)
    if alternative == "less":
        return float(below)
    return float(min(1.0, 2 * min(above, below)))


def ks_test(x: Any, y: Any = None, alternative: str = "two-sided") -> TestResult:
    """Kolmogorov-Smirnov test that two samples have one distribution.

    Parameters
    ----------
    x : array of shape (n,)
        A sample.
    y : array of shape (m,) or None
        Another; None tests x against the uniform distribution on [0, 1] (p-values).
    alternative : {"two-sided", "greater", "less"}
        "greater": the distribution function of x is above, so x tends to be smaller.

    Returns
    -------
    TestResult
        ``statistic`` and ``effect_size`` are the largest gap of the distribution functions,
        in [0, 1].

    Examples
    --------
    >>> ks_test([0.1, 0.2, 0.3], [0.7, 0.8, 0.9]).statistic
    1.0
    """
    from scipy.stats import ks_1samp, ks_2samp, uniform

    check_choice(alternative, "alternative", _ALTERNATIVES)
    first = as_vector(x, "x")
    if y is None:
        found = ks_1samp(first, uniform.cdf, alternative=alternative)
        n: tuple[int, ...] = (len(first),)
    else:
        second = as_vector(y, "y")
        # scipy's exact p-value is slow and warns beyond this; the limit law is then accurate.
        way = "exact" if max(len(first), len(second)) <= 500 else "asymp"
        with warnings.catch_warnings():
            # At the smallest possible gap scipy leaves the exact law, where p is 1 anyway.
            warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful")
            found = ks_2samp(first, second, alternative=alternative, method=way)
        n = (len(first), len(second))
    gap = float(found.statistic)
    return TestResult(gap, float(found.pvalue), gap, f"kolmogorov-smirnov, {alternative}", n)
