"""The hull of {y : p > alpha} where p is known point by point."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

_FINE = 33
# Distances from the centre, in units of the scale: a fine grid, then doublings.
_GRID = np.concatenate([np.linspace(0, 4, _FINE), 2.0 ** np.arange(3, 11)])


def hull(
    ranks: Callable[[np.ndarray], np.ndarray],
    centre: np.ndarray,
    scale: float,
    alphas: list[Fraction],
    n: int,
    halvings: int,
) -> np.ndarray:
    """Return the ends (m, 2, a) of the values whose rank is above alpha (n + 1).

    Parameters
    ----------
    ranks : callable (m, g) -> (m, g)
        Ranks, from 1 to n + 1, of g values of each of m rows.
    centre : ndarray of shape (m,)
        A value inside each set.
    scale : float
        Size of ordinary deviations from it. A part of a set that is apart from the rest is found
        where it is wider than an eighth of this, and within four of these.
    alphas : list of Fraction
        Error rates.
    n : int
        Training rows.
    halvings : int
        Bisections of the last cell of the grid.

    Returns
    -------
    ndarray of shape (m, 2, a)
        Infinite where a set reaches a thousand scales.
    """
    needed = np.array([math.floor(alpha * (n + 1)) for alpha in alphas])  # rank > alpha (n + 1)
    ends = np.empty((len(centre), 2, len(alphas)))
    for side, sign in enumerate((-1.0, 1.0)):
        grid = sign * scale * _GRID
        found = ranks(centre[:, None] + grid)[:, :, None] > needed
        # Farther out the set only goes on; nothing of it begins there.
        found[:, _FINE - 1 :] = np.logical_and.accumulate(found[:, _FINE - 1 :], axis=1)
        last = len(grid) - 1 - found[:, ::-1].argmax(axis=1)
        inner, outer = grid[last], grid[np.minimum(last + 1, len(grid) - 1)]
        for _ in range(halvings):
            middle = (inner + outer) / 2
            inside = ranks(centre[:, None] + middle) > needed
            inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        reached = np.where(last == len(grid) - 1, sign * math.inf, inner)
        ends[:, side] = centre[:, None] + np.where(found.any(axis=1), reached, 0.0)
    return ends
