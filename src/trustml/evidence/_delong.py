"""DeLong's covariance of areas under ROC curves, and what two detectors differ by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.evidence._checks import as_finite, check_probability
from trustml.evidence._intervals import Interval


@dataclass(frozen=True)
class AurocDifference:
    """How two scores of the same rows differ in their area under the ROC curve.

    Attributes
    ----------
    first, second : float
        The areas.
    difference : Interval
        Of ``first - second``.
    p_value : float
        Of "the areas are equal", two-sided.
    correlation : float
        Of the two estimates, in [-1, 1]: high where both err on the same rows; 0 if either does
        not vary.
    n : tuple of int
        Rows that should score low, rows that should score high.
    """

    first: float
    second: float
    difference: Interval
    p_value: float
    correlation: float
    n: tuple[int, int]


def auroc_difference(
    first_in: Any, first_out: Any, second_in: Any, second_out: Any, level: float = 0.95
) -> AurocDifference:
    r"""Compare the areas under the ROC curve of two scores of the same rows.

    Row i of ``first_in`` is row i of ``second_in``. A row's placement is the share of the other
    sample that it is on the right side of, ties counted half; the covariance of the placements
    is DeLong's covariance of the areas. Asymptotic: some tens of rows in each sample.
    O((n + m) log(n + m)).

    Parameters
    ----------
    first_in, second_in : arrays of shape (n,)
        Both scores of the sample that should score low; at least 2 rows.
    first_out, second_out : arrays of shape (m,)
        Both scores of the sample that should score high; at least 2 rows.
    level : float in (0, 1)
        Confidence level of the interval.

    Returns
    -------
    AurocDifference

    Notes
    -----
    Where no placement varies - both scores separate perfectly, say - the variance is zero, the
    interval has no width and the p-value is 1 for equal areas, 0 for others.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated
    receiver operating characteristic curves.
    Sun and Xu (2014), Fast implementation of DeLong's algorithm.

    Examples
    --------
    >>> import numpy as np
    >>> low, high = np.random.default_rng(0).normal(size=(2, 200))
    >>> blurred = np.random.default_rng(1).normal(size=(2, 200)) + [low, high + 1]
    >>> found = auroc_difference(low, high + 1, *blurred)
    >>> found.difference.low > 0, found.p_value < 0.01
    (True, True)
    """
    from scipy.special import ndtr, ndtri

    inside = _pair(first_in, second_in, "first_in", "second_in")
    outside = _pair(first_out, second_out, "first_out", "second_out")
    level = check_probability(level, "level")
    areas, covariance = delong_covariance(inside, outside)
    gap = float(areas[0] - areas[1])
    variance = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    spread = math.sqrt(variance)
    if spread > 1e-12:  # below, what is left of placements that cancel is rounding
        p_value = float(2 * ndtr(-abs(gap) / spread))
    else:
        spread, p_value = 0.0, float(abs(gap) < 1e-12)
    half = float(ndtri((1 + level) / 2)) * spread
    low, high = max(-1.0, gap - half), min(1.0, gap + half)
    scale = math.sqrt(float(covariance[0, 0] * covariance[1, 1]))
    return AurocDifference(
        float(areas[0]),
        float(areas[1]),
        Interval(gap, low, high, level, "delong's interval of a difference of AUROCs"),
        p_value,
        float(np.clip(covariance[0, 1] / scale, -1, 1)) if scale > 0 else 0.0,
        (inside.shape[1], outside.shape[1]),
    )


def delong_covariance(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas (k,) and their covariance (k, k) of k scores of n and m rows."""
    n, m = inside.shape[1], outside.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"DeLong's variance needs at least 2 rows of each sample, got {n} and {m}")
    of_out = np.stack([_below(a, b) for a, b in zip(inside, outside, strict=True)])
    of_in = np.stack([1 - _below(b, a) for a, b in zip(inside, outside, strict=True)])
    return of_out.mean(axis=1), np.atleast_2d(np.cov(of_out)) / m + np.atleast_2d(np.cov(of_in)) / n


def _below(reference: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Share of ``reference`` below each score, ties counted half."""
    ordered = np.sort(reference)
    left, right = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    share: np.ndarray = (left + right) / (2 * len(ordered))
    return share


def _pair(first: Any, second: Any, *names: str) -> np.ndarray:
    rows = [as_finite(x, name) for x, name in zip((first, second), names, strict=True)]
    if len(rows[0]) != len(rows[1]):
        raise ValueError(
            f"{names[0]} and {names[1]} must be scores of the same rows, got {len(rows[0])} and "
            f"{len(rows[1])}"
        )
    return np.stack(rows)
