"""Selection among rows that are drawn otherwise than the calibration rows."""

from __future__ import annotations

import numpy as np

from trustml.evidence._multiplicity import TIE


def weighted_picks(
    calibration: np.ndarray,
    weights: np.ndarray,
    promising: np.ndarray,
    own: np.ndarray,
    p: np.ndarray,
    q: float,
    shares: np.ndarray,
) -> np.ndarray:
    """Return which new rows weighted conformal selection picks.

    Weighted p-values are not positively dependent, so Benjamini-Hochberg may fail. Each row j is
    compared with a number of rejections that does not know which of row j and the calibration
    rows is the new one; the pruning that follows makes up for these numbers being different.

    Parameters
    ----------
    calibration, weights : ndarray of shape (n,)
        How promising each calibration row is, -inf if its outcome is wanted; its weight.
    promising, own : ndarray of shape (m,)
        The same of the new rows.
    p : ndarray of shape (m,)
        Weighted p-values of the new rows.
    q : float in (0, 1)
        False discovery rate.
    shares : ndarray of shape (m,)
        Ones, or independent uniform numbers, which pick more.

    Returns
    -------
    bool ndarray of shape (m,)

    References
    ----------
    Jin and Candès (2023), Model-free selective inference under covariate shift via weighted
    conformal p-values, arXiv:2307.09291, algorithm 1.
    """
    m = len(promising)
    order = np.argsort(-promising, kind="stable")
    ordered = promising[order]
    ranks = np.argsort(calibration)
    mass = np.append(np.cumsum(weights[ranks[::-1]])[::-1], 0.0)
    above = mass[np.searchsorted(calibration[ranks], ordered, side="right")]
    limits = q * np.arange(2, m + 1) / m * TIE
    rejections = np.empty(m)
    for place, row in enumerate(order):
        # The auxiliary p-values rise along the order; row j's own is 0 and comes first.
        auxiliary = (above + own[row] * (promising[row] > ordered)) / (mass[0] + own[row])
        good = np.flatnonzero(np.delete(auxiliary, place) <= limits)
        rejections[row] = 2 + good[-1] if len(good) else 1
    first = p <= q * rejections / m * TIE
    levels = shares * rejections
    kept = np.sort(levels[first])
    counts = np.flatnonzero(kept <= np.arange(1, len(kept) + 1))
    return first & (levels <= (counts[-1] + 1 if len(counts) else 0))
