"""Intervals for the difference and the ratio of two independent proportions."""

from __future__ import annotations

import math
from typing import Any

from trustml.evidence._intervals import Interval, wilson


def newcombe(
    successes: Any, n: Any, successes_reference: Any, n_reference: Any, level: float = 0.95
) -> Interval:
    """Interval of the difference of two proportions, first minus reference.

    Made from the two Wilson intervals, so it stays inside [-1, 1] and does not collapse when a
    proportion is 0 or 1.

    Parameters
    ----------
    successes, n : int
        Successes and trials of the first sample.
    successes_reference, n_reference : int
        Those of the reference sample, independent of the first.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    Interval
        A difference in [-1, 1].

    References
    ----------
    Newcombe (1998), Interval estimation for the difference between independent proportions:
    comparison of eleven methods (method 10).

    Examples
    --------
    >>> print(newcombe(56, 70, 48, 80))
    0.2 [0.05243, 0.3339] (95%)
    """
    first = wilson(successes, n, level)
    reference = wilson(successes_reference, n_reference, level)
    found = difference_of(first, reference)
    low, high = max(-1.0, found.low), min(1.0, found.high)
    return Interval(found.estimate, low, high, float(level), "newcombe")


def proportion_ratio(
    successes: Any, n: Any, successes_reference: Any, n_reference: Any, level: float = 0.95
) -> Interval:
    """Interval of the ratio of two proportions, first over reference.

    Made from the two Wilson intervals by the method of variance estimates recovery.

    Parameters
    ----------
    successes, n : int
        Successes and trials of the first sample.
    successes_reference, n_reference : int
        Those of the reference sample, independent of the first.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    Interval
        A ratio in [0, inf]; the estimate is NaN when both proportions are 0.

    References
    ----------
    Donner and Zou (2012), Closed-form confidence intervals for functions of the normal mean and
    standard deviation (MOVER-R).

    Examples
    --------
    >>> print(proportion_ratio(56, 70, 48, 80))
    1.333 [1.078, 1.663] (95%)
    """
    first = wilson(successes, n, level)
    reference = wilson(successes_reference, n_reference, level)
    return ratio_of(first, reference)


def difference_of(first: Interval, reference: Interval) -> Interval:
    """Interval of the difference of two independent estimates, from their own (MOVER)."""
    p, q = first.estimate, reference.estimate
    low = p - q - math.hypot(p - first.low, reference.high - q)
    high = p - q + math.hypot(first.high - p, q - reference.low)
    return Interval(p - q, low, high, first.level, "mover-d")


def ratio_of(first: Interval, reference: Interval) -> Interval:
    """Interval of the ratio of two independent estimates that are not negative (MOVER-R)."""
    p, q = first.estimate, reference.estimate
    estimate = p / q if q > 0 else (math.inf if p > 0 else math.nan)
    product = p * q
    least = first.low * (2 * p - first.low)
    low = 0.0
    if least > 0:
        # The usual formula times its conjugate: no 0/0 where 2q meets the upper limit.
        spread = product**2 - least * reference.high * (2 * q - reference.high)
        low = least / (product + math.sqrt(max(0.0, spread)))
    divisor = reference.low * (2 * q - reference.low)
    high = math.inf
    if divisor > 0:
        spread = product**2 - first.high * (2 * p - first.high) * divisor
        high = (product + math.sqrt(max(0.0, spread))) / divisor
    return Interval(estimate, low, high, first.level, "mover-r")
