"""Do scores mean what they say: calibration, and balance for each class, of some rows."""

from __future__ import annotations

import numpy as np

N_BINS = 10


def calibration_error(true: np.ndarray, score: np.ndarray) -> float:
    """Return the expected calibration error in ten bins of equal mass.

    The mean over rows of |mean score - share of positives| in the row's bin. Noise adds to it,
    about ``0.8 sqrt(p (1 - p) 10 / n)``, so small groups look worse calibrated than large ones:
    compare groups of unequal size by ``debiased_calibration_error``.

    Parameters
    ----------
    true : bool array of shape (n,)
        Which rows are positive.
    score : numpy.ndarray of shape (n,)
        Probabilities of being positive. Rows of equal score share a bin, whatever their order.

    Returns
    -------
    float
        In [0, 1], 0 for a calibrated score.

    References
    ----------
    Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian binning.
    Pleiss et al. (2017), On fairness and calibration, arXiv:1709.02012.

    Examples
    --------
    >>> calibration_error(np.array([True, False]), np.array([0.75, 0.75]))
    0.25
    """
    share, gap, _ = _bins(true, score)
    return float((share * np.abs(gap)).sum())


def debiased_calibration_error(true: np.ndarray, score: np.ndarray) -> float:
    """Return the root mean squared calibration error, less what noise adds to it.

    From each bin's squared gap its estimated sampling variance is taken off, so that groups of
    unequal size can be compared.

    Parameters
    ----------
    true : bool array of shape (n,)
        Which rows are positive.
    score : numpy.ndarray of shape (n,)
        Probabilities of being positive.

    Returns
    -------
    float
        In [0, 1]; 0 where the gaps are no larger than noise.

    References
    ----------
    Kumar et al. (2019), Verified uncertainty calibration, arXiv:1909.10155.

    Examples
    --------
    >>> debiased_calibration_error(np.array([True, False]), np.array([0.75, 0.75]))
    0.0
    """
    share, gap, variance = _bins(true, score)
    return float(np.sqrt(max((share * (gap**2 - variance)).sum(), 0.0)))


def _bins(true: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the rows, mean score minus share of positives, and its variance, in each bin."""
    n = len(score)
    n_bins = max(1, min(N_BINS, n // 2))
    edges = np.unique(np.sort(score)[[n * b // n_bins for b in range(1, n_bins)]])
    bins = np.searchsorted(edges, score, side="right")
    counts = np.bincount(bins)
    filled = counts > 0
    counts = counts[filled]
    positives = np.bincount(bins, true)[filled] / counts
    gap = np.bincount(bins, score)[filled] / counts - positives
    return counts / n, gap, positives * (1 - positives) / np.maximum(counts - 1, 1)


def balance_positive_class(true: np.ndarray, score: np.ndarray) -> float:
    """Return the mean score of the positive rows.

    Groups that differ in it are not in balance for the positive class: people who deserve the
    favourable decision get unequal scores.

    Parameters
    ----------
    true : bool array of shape (n,)
        Which rows are positive.
    score : numpy.ndarray of shape (n,)
        Scores.

    Returns
    -------
    float
        In the score's unit; NaN without a positive row.

    References
    ----------
    Kleinberg, Mullainathan and Raghavan (2017), Inherent trade-offs in the fair determination of
    risk scores, arXiv:1609.05807, condition (C).

    Examples
    --------
    >>> balance_positive_class(np.array([True, False]), np.array([0.75, 0.5]))
    0.75
    """
    return float(score[true].mean()) if true.any() else float("nan")


def balance_negative_class(true: np.ndarray, score: np.ndarray) -> float:
    """Return the mean score of the negative rows; see ``balance_positive_class``.

    Parameters
    ----------
    true : bool array of shape (n,)
        Which rows are positive.
    score : numpy.ndarray of shape (n,)
        Scores.

    Returns
    -------
    float
        In the score's unit; NaN without a negative row.

    References
    ----------
    Kleinberg, Mullainathan and Raghavan (2017), arXiv:1609.05807, condition (B).

    Examples
    --------
    >>> balance_negative_class(np.array([True, False]), np.array([0.75, 0.5]))
    0.5
    """
    return balance_positive_class(~true, score)
