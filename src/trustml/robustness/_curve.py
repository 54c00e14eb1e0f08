"""Robust accuracy as a function of the radius, monotone by construction."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import check_same_length, take_rows, to_numpy
from trustml.evidence import clopper_pearson
from trustml.robustness._attack import attack, check_eps, draw_seed, resolve
from trustml.robustness._fgsm import Fgsm
from trustml.robustness._judge import AttackResult
from trustml.robustness._method import Attack
from trustml.warnings import GradientMaskingWarning


@dataclass(frozen=True, eq=False, repr=False)
class RobustnessCurve(Result):
    """Robust accuracy at every radius of a grid.

    Attributes
    ----------
    eps : float array of shape (m,)
        Radii in input units, ascending, without repeats.
    estimate, low, high : float array of shape (m,)
        Robust accuracy and its pointwise Clopper-Pearson interval.
    per_example : bool array of shape (n, m)
        True where the row is not fooled within that radius.
    smallest : float array of shape (n,)
        Distance of the nearest adversarial point found for each row: 0 for rows that are wrong
        as they are, infinite for rows that were never fooled.
    level : float
        Of the intervals.
    norm, method : str
    forwards, backwards : int
        Model passes in all.
    flags : tuple of str
        What makes the curve doubtful.
    """

    eps: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    per_example: np.ndarray
    smallest: np.ndarray
    level: float
    norm: str
    method: str
    forwards: int
    backwards: int
    flags: tuple[str, ...]

    def _title(self) -> str:
        """Return what the curve is of."""
        doubts = "".join(f"; {flag}" for flag in self.flags)
        return (
            f"RobustnessCurve of {len(self.smallest)} rows ({self.method}, {self.norm}), pointwise "
            f"{self.level:.0%} intervals{doubts}"
        )

    def _columns(self) -> dict[str, Any]:
        return {"eps": self.eps, "estimate": self.estimate, "low": self.low, "high": self.high}


def robustness_curve(
    model: Any,
    X: Any,
    y: Any,
    norm: str = "linf",
    eps_grid: Any = (),
    method: str | Attack = "strong",
    level: float = 0.95,
    random_state: RandomState = None,
) -> RobustnessCurve:
    """Estimate robust accuracy at every radius of ``eps_grid``.

    FGSM tries every row at every radius; then ``method`` goes from the largest radius down. A
    row that survives a radius is taken to survive the smaller ones, and an adversarial point
    counts at every radius that is not below its distance, so each row costs one failed run in
    all, not one a radius, and the curve never rises.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable classifier with ``bounds``.
    X : array-like of shape (n, *features)
        Rows that the model was not trained on, in input units.
    y : array-like of shape (n,)
        True labels.
    norm : {"linf", "l2"}
    eps_grid : sequence of float or str
        Radii in input units, in any order.
    method : {"fgsm", "pgd", "strong"} or Attack
    level : float in (0, 1)
        Confidence level at each radius.
    random_state : int, Generator or None

    Returns
    -------
    RobustnessCurve

    Raises
    ------
    ValueError
        If the grid is empty.

    Warns
    -----
    GradientMaskingWarning
        If an attack raised flags.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), bounds=(0.0, 8.0))
    >>> curve = robustness_curve(model, X, y, "linf", [0.0, 0.2, 0.4], random_state=0)
    >>> bool((curve.estimate[1:] <= curve.estimate[:-1]).all())
    True
    """
    if isinstance(eps_grid, (str, float, int)) or not len(eps_grid):
        raise ValueError(f"eps_grid must be a sequence of at least one radius, got {eps_grid!r}")
    grid = np.unique([check_eps(eps, "robustness_curve") for eps in eps_grid])
    settings, seed = resolve(method), draw_seed(random_state)
    labels = to_numpy(y)
    n = check_same_length(X=X, y=labels)
    smallest = np.full(n, np.inf)
    cost = np.zeros(2, dtype=int)
    flags: dict[str, None] = {}

    def run(rows: np.ndarray, how: Attack, eps: float) -> np.ndarray:
        """Attack some rows; return which of them were fooled."""
        if not len(rows):
            return np.zeros(0, dtype=bool)
        found = attack(model, take_rows(X, rows), labels[rows], how, norm, eps, random_state=seed)
        fooled = _charge(found, cost)
        reach = np.where(fooled, to_numpy(found.distance), np.inf)
        smallest[rows] = np.minimum(smallest[rows], reach)
        if how is settings:
            flags.update(dict.fromkeys(found.flags))
        return fooled

    for eps in grid:
        run(np.flatnonzero(smallest > eps), Fgsm(), eps)
    candidates = np.ones(n, dtype=bool)  # rows fooled at every larger radius
    for eps in grid[::-1]:
        rows = np.flatnonzero(candidates & (smallest > eps))
        fooled = run(rows, settings, eps)
        candidates[rows[~fooled]] = False

    if flags:
        warnings.warn(
            "the robustness curve may be an illusion: " + "; ".join(flags),
            GradientMaskingWarning,
            stacklevel=2,
        )
    robust = smallest[:, None] > grid
    intervals = [clopper_pearson(int(k), n, level) for k in robust.sum(0)]
    estimate, low, high = (
        np.array([getattr(i, end) for i in intervals]) for end in ("estimate", "low", "high")
    )
    return RobustnessCurve(
        grid, estimate, low, high, robust, smallest, level, norm, settings.name,
        int(cost[0]), int(cost[1]), tuple(flags),
    )  # fmt: skip


def _charge(found: AttackResult, cost: np.ndarray) -> np.ndarray:
    cost += [int(to_numpy(found.forwards).sum()), int(to_numpy(found.backwards).sum())]
    return to_numpy(found.success)
