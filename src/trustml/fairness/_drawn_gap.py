"""Whether what is drawn for rows treats groups as the probabilities of the draw do."""

from __future__ import annotations

import warnings

import numpy as np

from trustml.warnings import TrustmlWarning

_BEYOND = (
    5.0  # standard errors: independent draws of two groups are further apart in 3 of 10^7 fits
)
_WORTH = 0.01  # of a gap


def warn_if_drawn_apart(
    of: str,
    drawn: np.ndarray,
    expected: np.ndarray,
    variance: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    remedy: str,
    stacklevel: int,
) -> None:
    """Warn when groups differ more in what was drawn than chance from row to row explains.

    The gap that was drawn is compared with the expected one plus 5 standard errors of independent
    draws plus .01. Equal rows share their draw, so few distinct rows go beyond that.

    Parameters
    ----------
    of : str
        What the means over groups are called.
    drawn, expected, variance : numpy.ndarray of shape (n,)
        What was drawn for each row, and mean and variance of its draw.
    codes : numpy.ndarray of shape (n,)
        Group of each row.
    weights : numpy.ndarray of shape (n,)
        0 for rows that do not count.
    remedy : str
        What else helps but another seed.
    stacklevel : int
        As of ``warnings.warn``, seen from the caller.

    Warns
    -----
    TrustmlWarning
        If so.
    """
    total = np.bincount(codes, weights)
    known = total > 0
    total = total[known]
    seen, meant = (np.bincount(codes, weights * v)[known] / total for v in (drawn, expected))
    high, low = int(seen.argmax()), int(seen.argmin())
    noise = np.bincount(codes, weights**2 * variance)[known] / total**2
    gap, aim = float(np.ptp(seen)), float(np.ptp(meant))
    error = float(np.sqrt(noise[high] + noise[low]))
    if gap > aim + _BEYOND * error + _WORTH:
        warnings.warn(
            f"equal rows share one draw, and too few rows of fit differ for that to even out: the "
            f"{of} drawn for them differs by {gap:.3g} between groups, expected {aim:.3f} ± "
            f"{2 * error:.3f}. New rows of these kinds get the same draws: {remedy}, or use "
            "another random_state",
            TrustmlWarning,
            stacklevel=stacklevel + 1,
        )
