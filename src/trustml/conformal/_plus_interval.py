"""The order statistics of jackknife+ and CV+."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from trustml.evidence import conformal_rank, quantile
from trustml.warnings import CoverageWarning

_CHUNK_NUMBERS = 2**22  # numbers of a (rows, n) block; the whole (m, n) is never held
_CACHED = 2**16  # numbers that stay near the processor while they are reordered


def chunks(n_rows: int, width: int, numbers: int | None = None) -> Iterator[np.ndarray]:
    """Yield row numbers, so few at once that a block of this width stays small."""
    step = max(1, (_CHUNK_NUMBERS if numbers is None else numbers) // max(1, width))
    for start in range(0, n_rows, step):
        yield np.arange(start, min(start + step, n_rows))


def plus_interval(centres: np.ndarray, residuals: np.ndarray, alphas: list[Fraction]) -> np.ndarray:
    """Return (m, 2, a) ends: order statistics of held-out predictions -+ residuals.

    The upper end is the ceil((n + 1)(1 - alpha))-th smallest of centre + residual, the lower
    the floor((n + 1) alpha)-th smallest of centre - residual; infinite where that rank is
    outside 1..n.

    Parameters
    ----------
    centres : ndarray of shape (m, n)
        Prediction for row m of the model that did not see training row n.
    residuals : ndarray of shape (n,)
        Absolute residual of training row n under that model.
    alphas : list of Fraction
        Error rates.

    Returns
    -------
    ndarray of shape (m, 2, a)

    References
    ----------
    Barber, Candès, Ramdas and Tibshirani (2021), Predictive inference with the jackknife+,
    arXiv:1905.02928.
    """
    low, high = np.empty((2, len(centres), len(alphas)))
    for rows in chunks(len(centres), centres.shape[1], _CACHED):
        own = centres[rows]
        low[rows] = order_statistics(own - residuals, alphas, lower=True)
        high[rows] = order_statistics(own + residuals, alphas)
    return np.stack([low, high], axis=1)


def order_statistics(values: np.ndarray, alphas: list[Fraction], lower: bool = False) -> np.ndarray:
    """Return the ends (m, a) of one side: values (m, n) at the conformal rank; reorders them.

    Parameters
    ----------
    values : ndarray of shape (m, n)
        One a training row; their order is lost.
    alphas : list of Fraction
        Error rates.
    lower : bool
        The rank counts from the largest.

    Returns
    -------
    ndarray of shape (m, a)
        Infinite where the rank is outside 1..n.
    """
    m, n = values.shape
    ranks = [conformal_rank(n, alpha) for alpha in alphas]
    places = [n - rank if lower else rank - 1 for rank in ranks]
    inside = [place for place in places if 0 <= place < n]
    if inside:
        values.partition(sorted(set(inside)), axis=1)
    found = np.full((m, len(alphas)), -math.inf if lower else math.inf)
    for a, place in enumerate(places):
        if 0 <= place < n:
            found[:, a] = values[:, place]
    return found


def weighted_plus_interval(
    centres: np.ndarray,
    residuals: np.ndarray,
    alphas: list[Fraction],
    weights: np.ndarray,
    own: np.ndarray,
) -> np.ndarray:
    """Return (m, 2, a) ends: weighted quantiles of held-out predictions -+ residuals.

    Parameters
    ----------
    centres, residuals, alphas
        As for `plus_interval`.
    weights : ndarray of shape (n,)
        Of the training rows.
    own : ndarray of shape (m,)
        Of the new rows, which stand at infinity.

    Returns
    -------
    ndarray of shape (m, 2, a)
    """
    ends = np.empty((len(centres), 2, len(alphas)))
    for row, mine in enumerate(own):
        ends[row, 0] = -quantile(residuals - centres[row], alphas, weights, mine)
        ends[row, 1] = quantile(residuals + centres[row], alphas, weights, mine)
    return ends


def residual_limits(residuals: np.ndarray, alphas: list[Fraction]) -> np.ndarray:
    """Return the conformal quantiles (a,) of residuals (n,); infinite for too few, unwarned."""
    n = len(residuals)
    ordered = np.append(np.sort(residuals), math.inf)
    return ordered[[min(conformal_rank(n, alpha), n + 1) - 1 for alpha in alphas]]


def warn_if_too_few(n: int, alphas: list[Fraction]) -> None:
    """Warn when n training rows have nothing to say at the smallest alpha."""
    alpha = min(alphas)
    if conformal_rank(n, alpha) > n:
        warnings.warn(
            f"{n} training rows cannot give coverage {1 - float(alpha):g}; at least "
            f"{math.ceil(1 / alpha) - 1} are needed. The answers are everything: the whole line, "
            "or the full label set.",
            CoverageWarning,
            stacklevel=3,
        )
