"""The order statistics of jackknife+ and CV+."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from trustml.evidence import conformal_rank
from trustml.warnings import CoverageWarning

_CHUNK_NUMBERS = 2**22  # numbers of a (rows, n) block; the whole (m, n) is never held


def chunks(n_rows: int, width: int) -> Iterator[np.ndarray]:
    """Yield row numbers, so few at once that a block of this width stays small."""
    step = max(1, _CHUNK_NUMBERS // max(1, width))
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
    m, n = centres.shape
    ends = np.empty((m, 2, len(alphas)))
    ends[:, 0], ends[:, 1] = -math.inf, math.inf
    low, high = centres - residuals, centres + residuals
    for a, alpha in enumerate(alphas):
        rank = conformal_rank(n, alpha)
        if rank <= n:
            ends[:, 0, a] = np.partition(low, n - rank, axis=1)[:, n - rank]
            ends[:, 1, a] = np.partition(high, rank - 1, axis=1)[:, rank - 1]
    return ends


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
