"""The search for a fairer model near the given one, without refits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import Result
from trustml.fairness._validation import Outcome, Validation
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import TrustmlWarning

# Rows are taken out until the predicted gap has shrunk by these parts; beyond 1 for the mismatch
# between the smooth gap that is predicted and the gap of decisions that counts.
_PARTS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
_STEPS = (0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True, eq=False, repr=False)
class Mitigation(Result):
    """What a mitigation did, measured on the validation rows.

    Attributes
    ----------
    removed : numpy.ndarray of shape (m,)
        Training rows whose effect was taken out; empty if nothing was fairer.
    step : float
        Length of the step; 1 takes out exactly these rows.
    gap_before, gap_after : float
        Gap of decisions (of predictions for regression).
    surrogate_before, surrogate_after : float
        The differentiated gap.
    accuracy_before, accuracy_after : float
        Accuracy, R² for regression.
    candidates : numpy.ndarray of shape (c, 5)
        Rows taken out, step, gap, surrogate gap, accuracy of everything that was tried.
    """

    removed: np.ndarray
    step: float
    gap_before: float
    gap_after: float
    surrogate_before: float
    surrogate_after: float
    accuracy_before: float
    accuracy_after: float
    candidates: np.ndarray

    def _title(self) -> str:
        """Return what the chosen candidate did; the table is of all that were tried."""
        return (
            f"Mitigation on validation rows: gap {self.gap_before:.4g} -> {self.gap_after:.4g}, "
            f"accuracy {self.accuracy_before:.4g} -> {self.accuracy_after:.4g}, "
            f"{len(self.removed)} rows taken out (step {self.step:g})"
        )

    def _columns(self) -> dict[str, Any]:
        names = ("rows", "step", "gap", "surrogate_gap", "accuracy")
        return dict(zip(names, self.candidates.T, strict=True))


def search(
    influence: InfluenceFunctions,
    validation: Validation,
    row_effects: np.ndarray,
    cell_effects: np.ndarray,
    accuracy_budget: float,
) -> tuple[Model, Mitigation]:
    """Return the fairest candidate that keeps the accuracy, and what was tried."""
    objective, model = influence.objective_, influence.model_
    start = objective.space.vector()
    order = np.argsort(row_effects, kind="stable")
    order = order[row_effects[order] < 0]
    first = validation.measure(objective)
    counts = _counts(validation, first.values, cell_effects, order)
    gap, accuracy = first.decisions, first.accuracy
    tried = [_candidate(0, 0.0, first)]
    best, best_vector = tried[0], start
    for count in counts:
        whole = influence.group_change(order[:count])
        for step in _STEPS:
            vector = start + step * whole
            measured = _candidate(count, step, validation.measure(objective.at(vector)))
            tried.append(measured)
            kept = measured[4] >= accuracy - accuracy_budget - 1e-12
            fairer = measured[2] < gap - 1e-12 and measured[2:4] < best[2:4]
            if kept and fairer:
                best, best_vector = measured, vector
    if best is tried[0]:
        warnings.warn(
            f"no candidate is fairer than the model within an accuracy budget of "
            f"{accuracy_budget:g} (gap {gap:.3g}); the model is returned as it is. Allow more, or "
            "try another criterion or surrogate",
            TrustmlWarning,
            stacklevel=3,
        )
        return model, _report(order[:0], best, tried)
    return model.replace(objective.space, best_vector), _report(order[: int(best[0])], best, tried)


def _candidate(count: int, step: float, outcome: Outcome) -> tuple[float, ...]:
    return float(count), step, outcome.decisions, outcome.gap, outcome.accuracy


def _counts(
    validation: Validation, values: np.ndarray, cell_effects: np.ndarray, order: np.ndarray
) -> list[int]:
    """How many of the most harmful rows to take out, by the gap predicted after them."""
    if len(order) == 0:
        return []
    gap = validation.compared.gap
    now = float(gap(values))
    path = gap(values[:, None] + np.cumsum(cell_effects[:, order], axis=1))
    # What has gone, as if the gap could become negative: beyond zero the spread grows again.
    gone = np.cumsum(np.abs(np.diff(path, prepend=now)))
    gone = gone / max(now, np.finfo(float).tiny)
    counts = [int(np.searchsorted(gone, part)) + 1 for part in _PARTS]
    return sorted({min(count, len(order)) for count in counts})


def _report(
    removed: np.ndarray, best: tuple[float, ...], tried: list[tuple[float, ...]]
) -> Mitigation:
    first = tried[0]
    return Mitigation(
        removed=removed,
        step=best[1],
        gap_before=first[2],
        gap_after=best[2],
        surrogate_before=first[3],
        surrogate_after=best[3],
        accuracy_before=first[4],
        accuracy_after=best[4],
        candidates=np.array(tried),
    )
