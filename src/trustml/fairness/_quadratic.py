"""Weights nearest to 1 that are predicted to reach a gap: a quadratic program by its dual."""

from __future__ import annotations

import numpy as np

from trustml.fairness._reweigh import Program, Unreachable

_STEPS = 200
_TOLERANCE = 1e-12


def quadratic(program: Program, gap: float) -> np.ndarray:
    """Return the removals x of least ‖x‖² that are predicted to reach a gap.

    With D x ≤ d the predictions, x = clip(−D'λ) for the multipliers λ ≥ 0 of the constraints, of
    which there are few. The dual is piecewise quadratic: a projected Newton method ends after
    finitely many steps.

    Parameters
    ----------
    program : Program
        What is predicted.
    gap : float
        Gap wanted; it must be reachable.

    Returns
    -------
    numpy.ndarray of shape (n,)
        1 − weights.

    References
    ----------
    Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints.
    """
    pairs = program.compared.pairs()
    D, d = pairs @ program.effects, gap - pairs @ program.values
    if program.loss_effects is not None:
        D = np.concatenate([D, program.loss_effects[None]])
        d = np.append(d, program.loss_budget)
    d = d + D @ program.removed  # of x itself, not of its change
    return _least_norm(D, d, 1.0 - program.upper, 1.0)


def _least_norm(D: np.ndarray, d: np.ndarray, low: float, high: float) -> np.ndarray:
    """Minimise ‖x‖² subject to D x ≤ d and low ≤ x ≤ high."""
    scale = np.linalg.norm(D, axis=1)
    used = scale > 0
    D, d = D[used] / scale[used, None], d[used] / scale[used]
    multipliers = np.zeros(len(d))

    def at(multipliers: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        pull = -multipliers @ D
        x = np.clip(pull, low, high)
        return float(pull @ x - x @ x / 2 + multipliers @ d), d - D @ x, x

    value, slope, x = at(multipliers)
    size = 1.0 + np.abs(d).max(initial=0.0)
    for _ in range(_STEPS):
        violation = np.abs(np.minimum(multipliers, slope)).max(initial=0.0)
        if violation <= _TOLERANCE * size:
            break
        moving = ~((multipliers <= min(violation, 1e-6)) & (slope > 0))
        pull = -multipliers @ D
        free = D[moving][:, (pull > low) & (pull < high)]
        gram = free @ free.T
        gram[np.diag_indices_from(gram)] += 1e-12 * max(1.0, np.trace(gram))
        step = np.zeros(len(d))
        step[moving] = -np.linalg.solve(gram, slope[moving])
        for halving in range(40):
            tried = np.maximum(0.0, multipliers + step / 2.0**halving)
            found = at(tried)
            if found[0] <= value + 1e-4 * slope @ (tried - multipliers):
                break
        else:
            break
        multipliers, (value, slope, x) = tried, found
    if slope.min(initial=0.0) < -1e-7 * size:
        raise Unreachable(
            "no weights are predicted to reach this gap within the loss budget: aim at a larger "
            "gap, allow more loss, or a larger upper weight"
        )
    return x
