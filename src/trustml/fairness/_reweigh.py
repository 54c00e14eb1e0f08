"""Weights of rows that are predicted to reach a gap: the constraints, and the linear program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trustml.fairness._criteria import Compared

_SLACK = 1e-9


class Unreachable(ValueError):
    """No weights are predicted to reach the gap within the loss budget."""


@dataclass(frozen=True, eq=False)
class Program:
    """What is predicted of a change z of the removals (weights are 1 − removals).

    Attributes
    ----------
    compared : Compared
        How values become a gap.
    values : numpy.ndarray of shape (k,)
        Where they are now.
    effects : numpy.ndarray of shape (k, n)
        Their change if a row leaves.
    loss_effects : numpy.ndarray of shape (n,), or None
        Change of the validation loss if a row leaves; None: the loss is not looked at.
    loss_budget : float
        Loss that may be gained.
    removed : numpy.ndarray of shape (n,)
        Removals now, 0 for weights of 1.
    upper : float
        The largest weight, at least 1.
    """

    compared: Compared
    values: np.ndarray
    effects: np.ndarray
    loss_effects: np.ndarray | None
    loss_budget: float
    removed: np.ndarray
    upper: float = 1.0

    def reachable(self) -> float:
        """Return the smallest gap that is predicted of any weights within the loss budget."""
        found = _solve(self, gap=None)
        if found is None:
            raise Unreachable("no weights are predicted to keep the loss within its budget")
        return float(found[-1])

    def linear(self, gap: float) -> np.ndarray:
        """Return the removals with the least total change that are predicted to reach a gap."""
        n = len(self.removed)
        found = _solve(self, gap=gap)
        if found is None:
            raise Unreachable(f"no weights are predicted to bring the gap to {gap:g}")
        change = found[:n]
        change[self.can_return()] -= found[n : n + int(self.can_return().sum())]
        removals: np.ndarray = np.clip(self.removed + change, 1.0 - self.upper, 1.0)
        return removals

    def can_return(self) -> np.ndarray:
        """Which rows can be given back, or weigh more than 1."""
        return self.removed > 1.0 - self.upper + 1e-12


def wanted_gap(gap: float, target: float | None, reduction: float | None) -> float:
    """Return the gap wanted, from either way to say it."""
    if target is not None and reduction is not None:
        raise ValueError("pass target or reduction, not both")
    if target is not None:
        if not np.isfinite(target) or target < 0:
            raise ValueError(f"target must be a finite number of at least 0, got {target!r}")
        return float(target)
    if reduction is None or not 0 <= reduction <= 1:
        raise ValueError(f"reduction must be in [0, 1], got {reduction!r}")
    return (1 - reduction) * gap


def allowed_loss(
    loss_effects: np.ndarray | None, loss_budget: float, loss_gain: float | None
) -> float:
    """Return the change of the loss that is allowed; negative where a decrease is asked for."""
    if not np.isfinite(loss_budget) or loss_budget < 0:
        raise ValueError(f"loss_budget must be a finite number of at least 0, got {loss_budget!r}")
    if loss_gain is None:
        return float(loss_budget)
    if loss_budget != 0:
        raise ValueError("pass loss_budget or loss_gain, not both")
    if not 0 <= loss_gain <= 1:
        raise ValueError(f"loss_gain must be in [0, 1], got {loss_gain!r}")
    if loss_effects is None:
        raise ValueError("loss_gain needs the validation loss, and so labels: pass y_val to fit")
    return loss_gain * float(np.minimum(loss_effects, 0.0).sum())


def solved(program: Program, target: float, method: str) -> tuple[np.ndarray, float]:
    """Return removals predicted to reach the target, or else the smallest gap; and that gap."""
    from trustml.fairness._quadratic import quadratic

    def solve(gap: float) -> np.ndarray:
        return program.linear(gap) if method == "linear" else quadratic(program, gap)

    try:
        return solve(target), target
    except Unreachable:
        smallest = program.reachable()
    slack = _SLACK if method == "linear" else 1e-4 * max(smallest, _SLACK)
    return solve(smallest + slack), smallest


def _solve(program: Program, gap: float | None) -> np.ndarray | None:
    """Minimise the change for a given gap; the gap itself where none is given."""
    from scipy.optimize import linprog

    # Variables: up (n), down (rows that can come back), two levels a condition, then the gap.
    compared, n = program.compared, len(program.removed)
    back = program.can_return()
    conditions = np.unique(compared.condition)
    m = n + int(back.sum())
    size = m + 2 * len(conditions) + 1
    # The solver's tolerances are absolute, and effects of one row are small: units of the largest.
    unit = _unit(program.effects)

    def row(effects: np.ndarray) -> np.ndarray:
        made = np.zeros(size)
        made[:n], made[n:m] = effects, -effects[back]
        return made

    rows, right = [], []
    for j, condition in enumerate(compared.condition):
        place = m + 2 * int(np.searchsorted(conditions, condition))
        for sign, level in ((1.0, place), (-1.0, place + 1)):
            made = row(sign * program.effects[j] / unit)
            made[level] = -sign
            rows.append(made)
            right.append(-sign * program.values[j] / unit)
    for c in range(len(conditions)):
        made = np.zeros(size)
        made[m + 2 * c], made[m + 2 * c + 1], made[-1] = 1.0, -1.0, -1.0
        rows.append(made)
        right.append(0.0)
    if program.loss_effects is not None:
        of_loss = _unit(program.loss_effects)
        rows.append(row(program.loss_effects / of_loss))
        right.append(program.loss_budget / of_loss)
    cost = np.zeros(size)
    cost[-1 if gap is None else slice(m)] = 1.0
    levels: list[tuple[float | None, float | None]] = [(None, None)] * (2 * len(conditions))
    if compared.reference:  # 0 lies between the levels
        levels = [(0.0, None), (None, 0.0)] * len(conditions)
    up = list(zip(np.zeros(n), 1.0 - program.removed, strict=True))
    down = list(zip(np.zeros(m - n), program.removed[back] - (1.0 - program.upper), strict=True))
    bounds = up + down + levels + [(0.0, None if gap is None else gap / unit)]
    for method in ("highs", "highs-ipm"):  # the second where the first gives up
        found = linprog(
            cost, A_ub=np.stack(rows), b_ub=np.array(right), bounds=bounds, method=method
        )
        if found.status in (0, 2):
            break
    if found.status == 2:
        return None
    if found.x is None:
        raise RuntimeError(f"the linear program for the weights failed: {found.message}")
    x: np.ndarray = found.x
    x[-1] *= unit
    return x


def _unit(effects: np.ndarray) -> float:
    return float(np.abs(effects).max(initial=0.0)) or 1.0
