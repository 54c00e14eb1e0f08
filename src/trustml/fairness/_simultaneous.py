"""The level at which intervals of all pairs of groups hold together."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=256)
def critical_value(level: float, n_groups: int) -> float:
    """Return how many standard errors every pair of groups may differ by, Tukey and Kramer's.

    Parameters
    ----------
    level : float in (0, 1)
        Probability that all pairs hold together.
    n_groups : int
        Groups compared, at least 2, where it is the normal quantile.

    Returns
    -------
    float
        In standard errors of a pair's difference; safe for groups of unequal size (Hayter).

    References
    ----------
    Hayter (1984), A proof of the conjecture that the Tukey-Kramer multiple comparisons procedure
    is conservative.

    Examples
    --------
    >>> round(critical_value(0.95, 2), 2), round(critical_value(0.95, 10), 2)
    (1.96, 3.16)
    """
    from scipy.special import ndtri
    from scipy.stats import studentized_range

    if n_groups == 2:
        return float(ndtri((1 + level) / 2))
    return float(studentized_range.ppf(level, n_groups, math.inf)) / math.sqrt(2)


def pairwise_level(level: float, n_groups: int) -> float:
    """Return the level of each pair's interval, so that all of them hold at ``level``."""
    from scipy.special import erf

    return float(erf(critical_value(level, n_groups) / 2**0.5))
