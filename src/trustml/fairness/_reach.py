"""Weights that bring a gap down to a target: small steps, linearised where the last one ended."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from trustml.core.results import Result
from trustml.core.validation import to_numpy
from trustml.fairness._prediction import GapPrediction
from trustml.fairness._reweigh import Program, Unreachable, solved
from trustml.fairness._validation import Outcome, Validation
from trustml.fairness._weighted import inverse_of, newton, weighted
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import TrustmlWarning

_NEWTON_STEPS = 60  # at most; small networks with flat directions take more than 20
_ROUGHLY = 1e-3  # of the pull may be left on the way, not in the end
_HALVINGS = 4
_BEARABLE = 2.0  # times the distance to the target, on the way of decisions
_ROUNDS = 3  # times the planned number of steps, where the plan was not enough

_Stops = list[tuple[np.ndarray, Tensor]]


@dataclass(frozen=True, eq=False, repr=False)
class Reached(Result):
    """Where the steps towards a target gap have led.

    Attributes
    ----------
    weights : numpy.ndarray of shape (n_train,)
        Of the training rows.
    model : Model
        With the parameters that minimise the weighted objective, by Newton steps.
    hit : bool
        Whether the gap is at most the target and the tolerance.
    target, tolerance : float
        What was asked for: a gap of at most their sum.
    path : numpy.ndarray of shape (s, 5)
        Gap that was aimed at or watched, surrogate gap, gap of decisions, accuracy, loss: before
        the first step and after each.
    removed : numpy.ndarray of shape (s,)
        Total change of the weights from 1, in rows.
    prediction : GapPrediction
        What the effects at weights of 1 predict of these weights, and what they do.
    """

    weights: np.ndarray
    model: Model
    hit: bool
    target: float
    tolerance: float
    path: np.ndarray
    removed: np.ndarray
    prediction: GapPrediction

    def _title(self) -> str:
        """Return where it ended; the table is of the steps."""
        verdict = "hit" if self.hit else "missed"
        return (
            f"Gap of at most {self.target:g} + {self.tolerance:g} {verdict} in "
            f"{len(self.path) - 1} steps: {self.path[0, 0]:.4g} -> {self.path[-1, 0]:.4g}"
        )

    def _columns(self) -> dict[str, Any]:
        names = ("watched", "gap", "decisions", "accuracy", "loss")
        columns = dict(zip(names, self.path.T, strict=True))
        return {"step": np.arange(len(self.path))} | columns | {"removed": self.removed}


@dataclass
class Walk:
    """Steps down to a target gap.

    Attributes
    ----------
    influence : InfluenceFunctions
        Fitted at weights of 1.
    validation : Validation
        What is measured.
    target, tolerance : float
        Where to stop.
    method : {"linear", "quadratic"}
        Least total change of weights, or least squared distance from 1.
    loss_budget : float or None
        Validation loss that may be gained over the whole way; None: none in any step that can do
        without, else what the step takes.
    upper : float
        Largest weight.
    decisions : bool
        Watch the gap of decisions instead of the surrogate.
    """

    influence: InfluenceFunctions
    validation: Validation
    target: float
    tolerance: float
    method: str
    loss_budget: float | None
    upper: float
    decisions: bool

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, least in (
            ("target", self.target, 0.0),
            ("tolerance", self.tolerance, 0.0),
            ("loss_budget", self.loss_budget or 0.0, 0.0),
            ("upper", self.upper, 1.0),
        ):
            if not np.isfinite(value) or value < least:
                raise ValueError(
                    f"{name} must be a finite number of at least {least:g}, got {value!r}"
                )

    def run(self, steps: int, predict: Callable[[np.ndarray], GapPrediction]) -> Reached:
        """Take the steps, and return where they led."""
        objective = self.influence.objective_
        weights, vector = np.ones(len(objective.data)), objective.space.vector()
        path, stops = [self.validation.measure(objective)], [(weights, vector)]
        pace, worse_too = 1.0, self.decisions
        for k in range(_ROUNDS * steps):
            if self._within(path[-1]):
                break
            if worse_too and k == (_ROUNDS - 1) * steps:
                worse_too = False
                path, stops = self._until_best(path, stops)
            weights, vector = stops[-1]
            now = self.watched(path[-1])
            wanted = now - (now - self.target) * pace / max(steps - k, 1)
            aimed = self._aimed(weights, vector, path, wanted)
            # Decisions move in jumps: what does not help at once may after the next step.
            bearable = self._off(path[-1]) * (_BEARABLE if worse_too else 1.0)
            for halving in range(_HALVINGS + 1):
                tried = weights + (aimed - weights) / 2**halving
                moved, _ = newton(self.influence, tried, vector, _NEWTON_STEPS, _ROUGHLY)
                outcome = self.validation.measure(objective.at(moved))
                if self._within(outcome):
                    moved, _ = newton(self.influence, tried, moved, _NEWTON_STEPS)
                    outcome = self.validation.measure(objective.at(moved))
                if self._off(outcome) < bearable:
                    path.append(outcome)
                    stops.append((tried, moved))
                    break
            else:
                if not self.decisions:
                    break
                pace /= 2
        path, stops = self._until_best(path, stops)
        weights, vector = stops[-1]
        model = self.validation.model.replace(objective.space, vector)
        return Reached(
            weights=weights,
            model=model if len(path) > 1 else self.validation.model,
            hit=self._within(path[-1]),
            target=self.target,
            tolerance=self.tolerance,
            path=np.array(
                [[self.watched(o), o.gap, o.decisions, o.accuracy, o.loss] for o in path]
            ),
            removed=np.array([np.abs(1 - w).sum() for w, _ in stops]),
            prediction=predict(weights),
        )

    def _until_best(self, path: list[Outcome], stops: _Stops) -> tuple[list[Outcome], _Stops]:
        best = int(np.argmin([self._off(outcome) for outcome in path]))
        return path[: best + 1], stops[: best + 1]

    def watched(self, outcome: Outcome) -> float:
        """Return the gap that is to reach the target."""
        return outcome.decisions if self.decisions else outcome.gap

    def _off(self, outcome: Outcome) -> float:
        return max(0.0, self.watched(outcome) - self.target)

    def _within(self, outcome: Outcome) -> bool:
        return self._off(outcome) <= self.tolerance

    def _aimed(
        self, weights: np.ndarray, vector: Tensor, path: list[Outcome], wanted: float
    ) -> np.ndarray:
        """Return the weights that are predicted from here to bring the gap to ``wanted``."""
        objective = self.influence.objective_.at(vector)
        gradients = self.validation.gradients(objective)
        inverse = inverse_of(self.influence, weighted(objective, weights))
        effects = to_numpy(objective.dot(inverse.solve(gradients).x)).T / objective.n
        k, now = len(path[-1].values), path[-1]
        budget = 0.0
        if self.loss_budget is not None:
            budget = path[0].loss + self.loss_budget - now.loss
        program = Program(
            self.validation.compared,
            now.decided if self.decisions else now.values,
            effects[:k].astype(np.float64),
            effects[k].astype(np.float64) if len(effects) > k else None,
            budget,
            1.0 - weights,
            self.upper,
        )
        try:
            removals, found = solved(program, wanted, self.method)
        except Unreachable:
            removals, found = program.removed, np.inf
        enough = found <= wanted + 0.5 * (self.watched(now) - wanted)
        if not enough and self.loss_budget is None:
            free = replace(program, loss_effects=None)
            removals, _ = solved(free, wanted, self.method)
        return 1.0 - removals


def warn_if_missed(reached: Reached, stacklevel: int = 3) -> None:
    """Say where the target was not hit, and what would help."""
    if reached.hit:
        return
    warnings.warn(
        f"the gap ends at {reached.path[-1, 0]:.3g}, above the target of at most "
        f"{reached.target:g} + {reached.tolerance:g}; allow more loss, a larger upper weight, "
        "more steps, or bring more validation rows (few rows make decisions a coarse measure); "
        "for a network, another curvature or damping: influence=InfluenceFunctions(...)",
        TrustmlWarning,
        stacklevel=stacklevel + 1,
    )
