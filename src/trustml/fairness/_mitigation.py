"""The search for a fairer model near the given one, without refits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.batches import Data
from trustml.core.results import Result
from trustml.fairness._criteria import Cells, Quantity, margin
from trustml.ihvp import Objective
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import TrustmlWarning

# Rows are taken out until the predicted gap has shrunk by these parts; beyond 1 for the mismatch
# between the smooth gap that is predicted and the gap of decisions that counts.
_PARTS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
_STEPS = (0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True, eq=False)
class Validation:
    """What a candidate is measured on."""

    model: Model
    data: Data
    cells: Cells
    means: np.ndarray
    quantity: Quantity
    column: int | None
    targets: Tensor | None

    def measure(self, objective: Objective) -> tuple[float, float, float]:
        """Return the gap of decisions, the surrogate gap, and the accuracy (R² of numbers)."""
        outputs = torch.cat(list(objective.map(lambda b: objective.outputs(b.inputs), self.data)))
        smooth = float(self.cells.gap(self.cells.means(self.quantity(outputs, self.targets))))
        if self.column is None or self.targets is None:
            return smooth, smooth, self._explained(outputs)
        decided = (margin(self.model, outputs, self.column) > 0).double()
        hard = float(self.cells.gap(self.cells.means(decided)))
        correct = self.model.logits_of(outputs).argmax(1) == self.targets.reshape(-1)
        return hard, smooth, float(correct.double().mean())

    def _explained(self, outputs: Tensor) -> float:
        if self.targets is None:
            return float("nan")
        target = self.targets.reshape(len(outputs), -1)
        residual = self.model.values_of(outputs).reshape(len(outputs), -1) - target
        spread = float((target - target.mean(0)).square().sum())
        return 1 - float(residual.square().sum()) / spread if spread > 0 else float("nan")


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
    counts = _counts(validation, cell_effects, order)
    gap, smooth, accuracy = validation.measure(objective)
    tried: list[tuple[float, ...]] = [(0.0, 0.0, gap, smooth, accuracy)]
    best, best_vector = tried[0], start
    for count in counts:
        whole = influence.group_change(order[:count])
        for step in _STEPS:
            vector = start + step * whole
            measured = (float(count), step, *validation.measure(objective.at(vector)))
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


def _counts(validation: Validation, cell_effects: np.ndarray, order: np.ndarray) -> list[int]:
    """How many of the most harmful rows to take out, by the gap predicted after them."""
    if len(order) == 0:
        return []
    path = validation.means[:, None] + np.cumsum(cell_effects[:, order], axis=1)
    # What has gone, as if the gap could become negative: beyond zero the spread grows again.
    gone = np.cumsum(np.abs(np.diff(validation.cells.gap(path), prepend=_gap(validation))))
    gone = gone / max(_gap(validation), np.finfo(float).tiny)
    counts = [int(np.searchsorted(gone, part)) + 1 for part in _PARTS]
    return sorted({min(count, len(order)) for count in counts})


def _gap(validation: Validation) -> float:
    return float(validation.cells.gap(validation.means))


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
