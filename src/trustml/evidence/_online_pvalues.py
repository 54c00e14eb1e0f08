"""Conformal p-values along a stream: each score against all before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import restore
from trustml.evidence._checks import as_vector

_BLOCK = 256  # scores compared pair by pair; the earlier ones are looked up


class OnlineRanks:
    """The scores so far, sorted, and the p-value of whatever comes next.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores before the stream; there may be none.
    """

    def __init__(self, scores: np.ndarray) -> None:
        self.sorted = np.sort(scores)

    def add(self, scores: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Return the p-values (k,) of the next scores (k,), in (0, 1], and take them in."""
        pieces = range(0, len(scores), _BLOCK)
        found = [self._add(scores[i : i + _BLOCK], uniforms[i : i + _BLOCK]) for i in pieces]
        return np.concatenate([np.zeros(0), *found])

    def _add(self, new: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        n, k = len(self.sorted), len(new)
        left, right = (np.searchsorted(self.sorted, new, side=side) for side in ("left", "right"))
        earlier = np.tri(k, k=-1, dtype=bool)
        above = n - right + ((new[None, :] > new[:, None]) & earlier).sum(axis=1)
        alike = right - left + ((new[None, :] == new[:, None]) & earlier).sum(axis=1)
        ordered = np.sort(new)
        self.sorted = np.insert(self.sorted, np.searchsorted(self.sorted, ordered), ordered)
        p: np.ndarray = (above + uniforms * (1 + alike)) / (n + 1 + np.arange(k))
        return p


def online_pvalues(scores: Any, random_state: RandomState = None, *, cal_scores: Any = None) -> Any:
    """Return the p-value of every score of a stream among all scores before it and itself.

    For exchangeable scores these are independent and uniform on (0, 1), which is what a test
    martingale bets against; p-values against one fixed calibration set depend on each other.

    Parameters
    ----------
    scores : array of shape (t,)
        In order of time; higher = stranger.
    random_state : int, Generator or None
        Breaks ties, and the place of a score among its own rank, at random; None: fresh entropy.
    cal_scores : array of shape (n,) or None
        Scores before the stream.

    Returns
    -------
    array of shape (t,)
        ``(#{earlier > s} + U (1 + #{earlier = s})) / (#earlier + 1)``, in (0, 1], of the kind of
        ``scores``.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapter 7.

    Examples
    --------
    >>> online_pvalues([9.0, 0.0], 0, cal_scores=[1.0, 2.0, 3.0]).round(2)
    array([0.09, 0.95])
    """
    stream = as_vector(scores, "scores")
    before = np.zeros(0) if cal_scores is None else as_vector(cal_scores, "cal_scores")
    uniforms = 1 - numpy_generator(random_state).random(len(stream))
    return restore(OnlineRanks(before).add(stream, uniforms), scores)
