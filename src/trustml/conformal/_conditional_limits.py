"""Thresholds that are linear in features of the row, by augmented quantile regression."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog

_SHORT = 1e-7  # of the new row's full dual weight: past a tie of the program, at no cost that shows
_TOLERANCE = 1e-10  # of HiGHS, the least that it takes
_INFEASIBLE = 2  # of scipy's status codes


def conditional_limits(
    scores: np.ndarray, features: np.ndarray, rows: np.ndarray, alphas: list[Fraction]
) -> np.ndarray:
    """Return thresholds (m, a): a new score is in while the quantile regression reaches it.

    The regression is fitted to the calibration scores and the new one together. Its dual weight
    eta grows with the new score s, from -alpha to 1 - alpha; the threshold is the s at which it
    gets there. With V(eta) the best dual value of the calibration rows beside a fixed eta, that is
    -V'(1 - alpha): one linear program, and no search over s.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Finite; higher = stranger.
    features : ndarray of shape (n, g)
        Of the calibration rows; the first column is 1.
    rows : ndarray of shape (m, g)
        Features of new rows; equal rows cost one program together.
    alphas : list of Fraction
        Error rates.

    Returns
    -------
    ndarray of shape (m, a)
        +inf where the calibration rows cannot hold the new one up, whatever its score.

    Raises
    ------
    RuntimeError
        If HiGHS fails.

    References
    ----------
    Gibbs, Cherian and Candès (2023), Conformal prediction with conditional guarantees, section 4,
    arXiv:2305.12616.
    """
    unit = np.abs(scores).max() or 1.0
    # Equal features share a program; columns of one size suit its absolute tolerances.
    size = np.abs(features).max(axis=0)
    size[size == 0] = 1.0
    features = features / size
    distinct, place = np.unique(rows / size, axis=0, return_inverse=True)
    limits = np.empty((len(distinct), len(alphas)))
    for a, alpha in enumerate(alphas):
        share = float(1 - alpha)
        for r, row in enumerate(distinct):
            found = linprog(
                -scores / unit,
                A_eq=features.T,
                b_eq=-(share - _SHORT) * row,
                bounds=(share - 1, share),
                method="highs",
                options={
                    "presolve": False,  # a third of the time, and removes nothing here
                    "dual_feasibility_tolerance": _TOLERANCE,
                    "primal_feasibility_tolerance": _TOLERANCE,
                },
            )
            if found.status == _INFEASIBLE:
                limits[r, a] = math.inf
            elif found.status == 0:
                limits[r, a] = -unit * (found.eqlin.marginals @ row)
            else:
                raise RuntimeError(f"the quantile regression was not solved: {found.message}")
    return _onto(np.sort(scores), limits, 1e-9 * unit)[place.ravel()]


def _onto(ordered: np.ndarray, limits: np.ndarray, slack: float) -> np.ndarray:
    """Raise limits to the scores that they equal but for rounding, so that ties are in."""
    last = np.searchsorted(ordered, limits + slack, side="right") - 1
    near = (last >= 0) & (ordered[last] >= limits - slack)
    return np.where(near, np.maximum(ordered[last], limits), limits)
