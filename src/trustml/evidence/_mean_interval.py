"""Student's interval of a mean."""

from __future__ import annotations

import math
from typing import Any

from trustml.core.validation import check_finite
from trustml.evidence._checks import as_vector, check_probability
from trustml.evidence._intervals import Interval


def mean_interval(values: Any, level: float = 0.95) -> Interval:
    """Return the mean of values with Student's interval.

    Right for values that are normal, and as n grows for any of finite variance; for bounded
    values `mean_upper_bound` holds at every n.

    Parameters
    ----------
    values : array of shape (n,)
        Independent and finite.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    Interval
        In the unit of the values; unbounded for a single one.

    References
    ----------
    Student (1908), The probable error of a mean.

    Examples
    --------
    >>> print(mean_interval([1.0, 2.0, 3.0, 4.0]))
    2.5 [0.4457, 4.554] (95%)
    """
    from scipy.special import stdtrit

    found, level = as_vector(values, "values"), check_probability(level, "level")
    check_finite(found, "values")
    n, mean = len(found), float(found.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, level, "student, 1 value")
    half = float(stdtrit(n - 1, (1 + level) / 2) * found.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, level, f"student, {n} values")
