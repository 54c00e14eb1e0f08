"""Conformal p-values: the rank of a new score among calibration scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import restore
from trustml.evidence._checks import as_vector


def pvalues(cal_scores: Any, scores: Any, random_state: RandomState = None) -> Any:
    """Return ``(1 + #{calibration scores >= s}) / (n + 1)`` for every new score s.

    Super-uniform for a new score that is exchangeable with the calibration scores:
    P(p <= t) <= t for every t.

    Parameters
    ----------
    cal_scores : array of shape (n,)
        Calibration scores, higher = stranger.
    scores : array of shape (m,)
        New scores.
    random_state : int, Generator or None
        Given: ties are broken at random and the p-values are exactly uniform,
        ``(#{>} + U (1 + #{=})) / (n + 1)``. None: the conservative p-values above.

    Returns
    -------
    array of shape (m,)
        p-values in (0, 1], of the kind of ``scores``.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapter 2.

    Examples
    --------
    >>> pvalues([1.0, 2.0, 3.0], [2.5, 9.0])
    array([0.5 , 0.25])
    """
    calibration = np.sort(as_vector(cal_scores, "cal_scores"))
    new = as_vector(scores, "scores")
    n = len(calibration)
    at_least = n - np.searchsorted(calibration, new, side="left")
    if random_state is None:
        p = (1 + at_least) / (n + 1)
    else:
        above = n - np.searchsorted(calibration, new, side="right")
        # 1 - U is in (0, 1]: a p-value of exactly zero would claim the impossible.
        u = 1 - numpy_generator(random_state).random(len(new))
        p = (above + u * (1 + at_least - above)) / (n + 1)
    return restore(p, scores)
