"""The game between a learner and an auditor of its gaps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.optimize import linprog

from trustml.fairness._best_response import Constant, Learner
from trustml.fairness._moments import Moments

_DRAWN = 0.5  # how far the next multipliers are drawn to the best so far
_APART = 10  # questions by multiplicative updates
_STEP, _LARGEST = 4.0, 2.0  # theirs: per unit of gap; their sum, in sums of the prices found


class Game:
    """Questions to a learner, and the saddle point over its answers.

    Parameters
    ----------
    moments : Moments
        Error and compared means.
    learner : Learner
        Is asked first for what it does without constraints.
    eps : float
        Allowed gap.

    Attributes
    ----------
    hypotheses : list
        The two constants, then the answers.
    atoms : numpy.ndarray of shape (a, t)
        Their atom rates.
    value : float
        The smallest error of a mixture of them whose gap is at most ``eps``.
    weights : numpy.ndarray of shape (t,)
        That mixture.
    price : numpy.ndarray of shape (k,)
        What a unit of each compared mean costs.
    best : float
        The largest lower bound that questions gave; the learner's, so far as its answers are best.
    missed : float
        How much worse an answer was for its question than another known hypothesis, at most.
    """

    def __init__(self, moments: Moments, learner: Learner, eps: float) -> None:
        k, a = moments.rates.shape
        self.moments, self.learner, self.eps = moments, learner, eps
        self.hypotheses: list[object] = [Constant(0), Constant(1)]
        self.atoms = np.array([[0.0, 1.0]] * a)
        self.best, self.best_at, self.missed = -math.inf, np.zeros(k), 0.0
        self.ask(self.best_at)

    def ask(self, query: np.ndarray) -> bool:
        """Add the answer to multipliers; say whether they bound the error better than others."""
        found, rates = self.learner.respond(query)
        self.hypotheses.append(found)
        self.atoms = np.column_stack([self.atoms, rates])
        costs = self._lagrangian(query)
        self.missed = max(self.missed, float(costs[-1] - costs.min()))
        # What bounded the error before may not, now that there is one hypothesis more.
        before, now = (float(self._lagrangian(at).min()) for at in (self.best_at, query))
        if now > before:
            self.best_at = query
        self.best = max(before, now)
        self.value, self.weights, self.price = saddle_point(self.moments, self.atoms, self.eps)
        return now > before

    def close(self, calls: Iterator[int], nu: float) -> None:
        """Ask until value and bound are within ``nu``, or there are no calls left."""
        taught = True
        while self.value - self.best > nu and next(calls, None) is not None:
            # A question that taught nothing is not asked again: then the programme's own is.
            drawn = _DRAWN if taught else 0.0
            taught = self.ask(drawn * self.best_at + (1 - drawn) * self.price)

    def ask_apart(self, calls: Iterator[int]) -> None:
        """Ask what exponentiated gradients ask: multipliers that grow with the answers' gaps."""
        moments, largest = self.moments, _LARGEST * float(np.abs(self.price).sum())
        theta = np.zeros(len(self.price))
        for _, _ in zip(range(_APART), calls, strict=False):
            powers = np.exp(np.stack([theta, -theta]) - np.abs(theta).max())
            powers *= largest / (powers.sum() + math.exp(-np.abs(theta).max()))
            self.ask(powers[0] - powers[1])
            means = moments.means(self.atoms[:, -1:])[:, 0]
            size = np.bincount(moments.condition)
            middle = np.bincount(moments.condition, means) / size
            theta += _STEP * (means - middle[moments.condition])

    def _lagrangian(self, at: np.ndarray) -> np.ndarray:
        """Return what each hypothesis costs: no mixture of gap ``eps`` errs less than the least."""
        allowed = self.eps * float(at.clip(0).sum())
        moments = self.moments
        return np.asarray(moments.errors(self.atoms) + at @ moments.means(self.atoms)) - allowed


def saddle_point(
    moments: Moments, atoms: np.ndarray, eps: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return value, mixture and multipliers of the game over given hypotheses.

    Parameters
    ----------
    moments : Moments
        Error and compared means.
    atoms : numpy.ndarray of shape (a, t)
        Atom rates of the hypotheses.
    eps : float
        Allowed gap.

    Returns
    -------
    value : float
        The smallest error of a mixture whose gap is at most ``eps``.
    weights : numpy.ndarray of shape (t,)
        The mixture.
    multipliers : numpy.ndarray of shape (k,)
        What a unit of each mean costs; they add up to 0 within a condition.

    Raises
    ------
    RuntimeError
        If the solver fails.
    """
    k, t = len(moments.rates), atoms.shape[1]
    means, errors = moments.means(atoms), moments.errors(atoms)
    floors = np.eye(moments.condition.max() + 1)[moments.condition]
    programme = linprog(
        np.r_[errors, np.zeros(floors.shape[1])],
        A_ub=np.block([[means, -floors], [-means, floors]]),
        b_ub=np.r_[np.full(k, eps), np.zeros(k)],
        A_eq=np.r_[np.ones(t), np.zeros(floors.shape[1])][None],
        b_eq=[1.0],
        bounds=[(0, None)] * t + [(None, None)] * floors.shape[1],
        method="highs",
    )
    if not programme.success:
        raise RuntimeError(f"the linear programme over hypotheses failed: {programme.message}")
    upper, lower = -programme.ineqlin.marginals[:k], -programme.ineqlin.marginals[k:]
    weights = programme.x[:t].clip(0)
    weights[weights < 1e-9] = 0.0
    return float(programme.fun), weights / weights.sum(), upper - lower
