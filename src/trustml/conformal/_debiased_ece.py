"""Calibration error without the bias of small bins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.conformal._reliability import bins, probabilities_and_columns
from trustml.evidence import Interval


def debiased_ece(
    y_true: Any,
    probabilities: Any,
    n_bins: int = 15,
    classes: Any = None,
    level: float = 0.95,
) -> Interval:
    """Return the root mean square calibration error of the predicted label, debiased.

    Bins of equal numbers of rows. The square of each bin's error is estimated without bias, by
    products of different rows only, so perfectly calibrated probabilities show 0 on average where
    `ece` shows the noise of the bins. Differences within a bin are averaged away: a lower bound.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels.
    probabilities : array of shape (n, c)
        Class probabilities.
    n_bins : int
        Bins of confidence; equal probabilities share one.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of the interval.

    Returns
    -------
    Interval
        In [0, 1], the unit of probability; 0 where the estimated square is not positive. The
        interval rests on the normal law of the estimated square, for many rows.

    Raises
    ------
    ValueError
        If a bin has one row only, or ``level`` is not in (0, 1).

    References
    ----------
    Kumar, Liang and Ma (2019), Verified uncertainty calibration, arXiv:1909.10155, section 4.
    Roelofs, Cain, Shlens and Mozer (2022), Mitigating bias in calibration error estimation,
    arXiv:2012.08668 (equal mass). Sun, Chaudhari, Barnett and Dobriban (2024), A confidence
    interval for the l2 expected calibration error, arXiv:2408.08998.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.full((1000, 2), [0.9, 0.1])
    >>> y = (np.arange(1000) % 5 == 0).astype(int)  # right in 80 %
    >>> round(debiased_ece(y, p).estimate, 2)
    0.1
    """
    from scipy.special import ndtri

    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level!r}")
    p, column = probabilities_and_columns(y_true, probabilities, classes)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == column
    code, _ = bins(confidence, n_bins, "quantile")
    _, code, n = np.unique(code, return_inverse=True, return_counts=True)
    if n.min() < 2:
        raise ValueError(
            f"a bin has one of the {len(p)} rows, and one row cannot tell error from noise; give "
            "more rows or fewer n_bins"
        )
    gaps = right - confidence
    mean, square = np.bincount(code, weights=gaps) / n, np.bincount(code, weights=gaps**2) / n
    squared = (n * mean**2 - square) / (n - 1)  # the mean of gap_i gap_j over i != j
    noise = np.clip(square - squared, 0, None)
    variance = 4 * np.clip(squared, 0, None) * noise / n + 2 * noise**2 / (n * (n - 1))
    share = n / len(p)
    estimate, half = float(share @ squared), float(np.sqrt(share**2 @ variance))
    half *= float(ndtri((1 + level) / 2))
    low, middle, high = (
        math.sqrt(min(1.0, max(0.0, v))) for v in (estimate - half, estimate, estimate + half)
    )
    return Interval(middle, low, high, float(level), f"debiased, {len(n)} bins of equal mass")
