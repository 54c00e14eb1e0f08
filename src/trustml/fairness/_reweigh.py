"""The least removal that is predicted to reach a gap: a linear program."""

from __future__ import annotations

import warnings

import numpy as np

from trustml.fairness._criteria import Cells
from trustml.warnings import TrustmlWarning

_SLACK = 1e-9


def least_removal(
    cells: Cells,
    means: np.ndarray,
    effects: np.ndarray,
    loss_effects: np.ndarray | None,
    target: float | None,
    loss_budget: float,
) -> np.ndarray:
    """Return weights 1 − x: x removes least, with the predicted gap at most ``target``.

    Parameters
    ----------
    cells : Cells
        What is compared.
    means : numpy.ndarray of shape (k,)
        Present means of the cells.
    effects : numpy.ndarray of shape (k, n)
        Their change if a row leaves.
    loss_effects : numpy.ndarray of shape (n,) or None
        Change of the validation loss if a row leaves.
    target : float or None
        Gap wanted; None is the smallest that can be reached.
    loss_budget : float
        Loss that may be gained.

    Returns
    -------
    numpy.ndarray of shape (n,)

    Raises
    ------
    ValueError
        If ``target`` or ``loss_budget`` is negative or not finite.
    """
    for name, value in (("target", target or 0.0), ("loss_budget", loss_budget)):
        if not np.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    n = effects.shape[1]
    reachable = float(_solve(cells, means, effects, loss_effects, loss_budget, gap=None)[-1])
    if target is not None and reachable > target + 1e-6:
        warnings.warn(
            f"no weights are predicted to bring the gap to {target:g} within the loss budget; the "
            f"smallest reachable one, {reachable:.3g}, is aimed at",
            TrustmlWarning,
            stacklevel=3,
        )
    gap = max(target or 0.0, reachable + _SLACK)
    removed = _solve(cells, means, effects, loss_effects, loss_budget, gap=gap)[:n]
    weights: np.ndarray = 1.0 - np.clip(removed, 0.0, 1.0)
    return weights


def _solve(
    cells: Cells,
    means: np.ndarray,
    effects: np.ndarray,
    loss_effects: np.ndarray | None,
    loss_budget: float,
    gap: float | None,
) -> np.ndarray:
    """Minimise the removal for a given gap; the gap itself where none is given."""
    from scipy.optimize import linprog

    # Variables: x (n), then an upper and a lower level a condition, then the gap.
    n = effects.shape[1]
    conditions = np.unique(cells.condition)
    size = n + 2 * len(conditions) + 1
    rows, right = [], []
    for j, condition in enumerate(cells.condition):
        place = n + 2 * int(np.searchsorted(conditions, condition))
        for sign, level in ((1.0, place), (-1.0, place + 1)):
            row = np.zeros(size)
            row[:n], row[level] = sign * effects[j], -sign
            rows.append(row)
            right.append(-sign * means[j])
    for c in range(len(conditions)):
        row = np.zeros(size)
        row[n + 2 * c], row[n + 2 * c + 1], row[-1] = 1.0, -1.0, -1.0
        rows.append(row)
        right.append(0.0)
    if loss_effects is not None:
        row = np.zeros(size)
        row[:n] = loss_effects
        rows.append(row)
        right.append(loss_budget)
    cost = np.zeros(size)
    cost[-1 if gap is None else slice(n)] = 1.0
    free = [(None, None)] * (2 * len(conditions))
    found = linprog(
        cost,
        A_ub=np.stack(rows),
        b_ub=np.array(right),
        bounds=[(0.0, 1.0)] * n + free + [(0.0, gap)],
        method="highs",
    )
    if found.x is None:
        raise ValueError(f"the linear program for the weights failed: {found.message}")
    x: np.ndarray = found.x
    return x
