"""Intervals for a proportion, and the band of coverages that split conformal may show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.validation import check_choice
from trustml.evidence._checks import check_count, check_probability
from trustml.evidence._quantile import exact_alpha


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes
    ----------
    estimate : float
        The point estimate.
    low, high : float
        Ends of the interval, in the unit of the estimate.
    level : float
        Confidence level in (0, 1).
    method : str
        How the interval was made.

    Examples
    --------
    >>> low, high = Interval(0.5, 0.4, 0.6, 0.95, "wilson")
    >>> low, high
    (0.4, 0.6)
    """

    estimate: float
    low: float
    high: float
    level: float
    method: str

    def contains(self, value: float) -> bool:
        """Return whether ``value`` lies in the closed interval."""
        return self.low <= value <= self.high

    def __iter__(self) -> Iterator[float]:
        """Unpack as ``low, high = interval``."""
        return iter((self.low, self.high))

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}] ({self.level:.0%})"


def clopper_pearson(
    successes: Any, n: Any, level: float = 0.95, side: str = "two-sided"
) -> Interval:
    """Exact interval of a proportion: covers with probability at least ``level``, any n.

    Parameters
    ----------
    successes : int
        Number of successes, 0..n.
    n : int
        Number of independent trials.
    level : float in (0, 1)
        Confidence level.
    side : {"two-sided", "lower", "upper"}
        "lower": [bound, 1], a proportion at least this. "upper": [0, bound].

    Returns
    -------
    Interval
        Proportions in [0, 1].

    References
    ----------
    Clopper and Pearson (1934), The use of confidence or fiducial limits.

    Examples
    --------
    >>> print(clopper_pearson(0, 100, side="upper"))
    0 [0, 0.02951] (95%)
    """
    from scipy.special import betaincinv

    k, trials, tail = _proportion(successes, n, level, side)
    low, high = 0.0, 1.0
    if side != "upper" and k > 0:
        low = float(betaincinv(k, trials - k + 1, tail))
    if side != "lower" and k < trials:
        high = float(betaincinv(k + 1, trials - k, 1 - tail))
    return Interval(k / trials, low, high, float(level), f"clopper-pearson, {side}")


def wilson(successes: Any, n: Any, level: float = 0.95, side: str = "two-sided") -> Interval:
    """Score interval of a proportion: covers about ``level`` on average, narrower than exact.

    Parameters
    ----------
    successes : int
        Number of successes, 0..n.
    n : int
        Number of independent trials.
    level : float in (0, 1)
        Confidence level.
    side : {"two-sided", "lower", "upper"}
        "lower": [bound, 1]. "upper": [0, bound].

    Returns
    -------
    Interval
        Proportions in [0, 1].

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Examples
    --------
    >>> print(wilson(0, 100, side="upper"))
    0 [0, 0.02634] (95%)
    """
    from scipy.special import ndtri

    k, trials, tail = _proportion(successes, n, level, side)
    z = float(-ndtri(tail))
    share = k / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    half /= 1 + z * z / trials
    # The formula meets 0 and 1 exactly at the ends, but for rounding.
    low = 0.0 if side == "upper" or k == 0 else max(0.0, centre - half)
    high = 1.0 if side == "lower" or k == trials else min(1.0, centre + half)
    return Interval(share, low, high, float(level), f"wilson, {side}")


def beta_binomial_band(
    n_cal: int, n_test: int, alpha: float, level: float = 0.95
) -> tuple[float, float]:
    """Return the coverages that a correct split conformal predictor may show.

    With continuous scores the number of covered test points is Beta-Binomial(n_test,
    n_cal + 1 - l, l), l = floor((n_cal + 1) alpha): the luck of the calibration set and of
    the test set together. Ties only raise the coverage.

    Parameters
    ----------
    n_cal : int
        Calibration points.
    n_test : int
        Test points.
    alpha : float in (0, 1)
        Allowed error rate.
    level : float in (0, 1)
        Probability of the band, equal tails.

    Returns
    -------
    tuple of float
        Lowest and highest coverage, shares in [0, 1]. (1, 1) when n_cal is too small for
        ``alpha``: the sets then are everything.

    References
    ----------
    Vovk (2012), Conditional validity of inductive conformal predictors, arXiv:1209.2673.

    Examples
    --------
    >>> beta_binomial_band(1000, 1000, alpha=0.1)
    (0.873, 0.925)
    """
    from scipy.special import betaln, gammaln

    n_cal, n_test = check_count(n_cal, "n_cal"), check_count(n_test, "n_test")
    tail = (1 - check_probability(level, "level")) / 2
    misses = math.floor((n_cal + 1) * exact_alpha(alpha))
    if misses == 0:
        return 1.0, 1.0
    k = np.arange(n_test + 1)
    log_choose = gammaln(n_test + 1) - gammaln(k + 1) - gammaln(n_test - k + 1)
    a, b = n_cal + 1 - misses, misses
    cdf = np.cumsum(np.exp(log_choose + betaln(k + a, n_test - k + b) - betaln(a, b)))
    low, high = np.searchsorted(cdf, [tail, 1 - tail])
    return float(low / n_test), float(min(high, n_test) / n_test)


def _proportion(successes: Any, n: Any, level: float, side: str) -> tuple[int, int, float]:
    trials = check_count(n, "n")
    k = check_count(successes, "successes", least=0)
    if k > trials:
        raise ValueError(f"successes must be at most n = {trials}, got {k}")
    check_choice(side, "side", ("two-sided", "lower", "upper"))
    miss = 1 - check_probability(level, "level")
    return k, trials, miss / 2 if side == "two-sided" else miss
