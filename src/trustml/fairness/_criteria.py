"""Smooth fairness gaps: group means of a differentiable quantity, and their spread."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trustml.core.batches import Batch, Data
from trustml.fairness._groups import Groups
from trustml.ihvp import Objective
from trustml.model import Model
from trustml.warnings import SmallGroupWarning

# criterion -> the labels within which groups are compared
CRITERIA: dict[str, tuple[str, ...]] = {
    "demographic_parity": ("any",),
    "equal_opportunity": ("positive",),
    "predictive_equality": ("negative",),
    "equalized_odds": ("positive", "negative"),
    "loss_parity": ("any",),
}
SURROGATES = ("probability", "threshold")

# Outputs and encoded targets of some rows -> the quantity of each row, differentiable.
Quantity = Callable[[Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True, eq=False)
class Cells:
    """The groups within each label: what is averaged, and how averages become a gap.

    Attributes
    ----------
    weights : Tensor of shape (n, k)
        Column j averages over the rows of cell j.
    condition : numpy.ndarray of shape (k,)
        Cells with the same number are compared with each other.
    names : tuple of (str, object)
        Label and group of each cell.
    """

    weights: Tensor
    condition: np.ndarray
    names: tuple[tuple[str, Any], ...]

    def gap(self, means: np.ndarray) -> np.ndarray:
        """Return the largest spread over the conditions of means (k, ...), shape (...)."""
        spreads = [
            means[self.condition == c].max(0) - means[self.condition == c].min(0)
            for c in np.unique(self.condition)
        ]
        widest: np.ndarray = np.max(spreads, axis=0)
        return widest

    def means(self, values: Tensor) -> np.ndarray:
        """Return the cells' means of (n,) values, shape (k,)."""
        result: np.ndarray = (self.weights.T @ values.double().cpu()).numpy()
        return result


def cells_of(criterion: str, groups: Groups, positive: np.ndarray | None) -> Cells:
    """Return the cells that a criterion compares.

    Parameters
    ----------
    criterion : str
        A key of ``CRITERIA``.
    groups : Groups
        Of the validation rows.
    positive : numpy.ndarray of shape (n,), bool, or None
        Which rows have the favourable label; needed by criteria that look at labels.

    Returns
    -------
    Cells

    Raises
    ------
    ValueError
        If fewer than two groups have a row with the label.
    """
    columns, condition, names = [], [], []
    for number, label in enumerate(CRITERIA[criterion]):
        of_label = np.ones(len(groups.codes), dtype=bool)
        if label != "any" and positive is not None:
            of_label = positive if label == "positive" else ~positive
        empty, filled = [], 0
        for code, group in enumerate(groups.labels):
            rows = of_label & (groups.codes == code)
            if not rows.any():
                empty.append(str(group))
                continue
            filled += 1
            columns.append(rows / rows.sum())
            condition.append(number)
            names.append((label, group))
        if filled < 2:
            raise ValueError(
                f"{criterion} compares groups on rows with the {label} label, but only {filled} of "
                f"{len(groups.labels)} groups have any; use more validation rows, or stratify the "
                "split by label and group"
            )
        if empty:
            warnings.warn(
                f"the groups {empty} have no validation rows with the {label} label; {criterion} "
                "leaves them out",
                SmallGroupWarning,
                stacklevel=3,
            )
    weights = torch.as_tensor(np.stack(columns, axis=1))
    return Cells(weights, np.array(condition), tuple(names))


def margin(model: Model, outputs: Tensor, column: int) -> Tensor:
    """Return how far the favourable class is ahead of the best other one, in logits."""
    logits = model.logits_of(outputs)
    others = torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)
    return logits[:, column] - others.amax(1)


def bandwidth(margins: Tensor) -> float:
    """Return the temperature of the smoothed decision."""
    # The derivative of a selection rate is the density of the margins at 0, so the logistic
    # kernel gets the standard deviation of Silverman's rule.
    spread = float(margins.double().std()) if len(margins) > 1 else 0.0
    if spread == 0:
        return 1.0
    return float(1.06 * spread * len(margins) ** -0.2 * math.sqrt(3) / math.pi)


@dataclass(frozen=True, eq=False)
class Measured:
    """The differentiable quantity whose group means a criterion compares.

    A class rather than a closure, so that what was fitted can be stored.
    """

    model: Model
    kind: Literal["loss", "value", "probability", "decision"]
    column: int = 0
    temperature: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """Return the quantity of each row, with its graph."""
        model = self.model
        if self.kind == "loss":
            if targets is None:
                raise ValueError("loss_parity needs y_val")
            return model.loss_fn(outputs, targets)
        if self.kind == "value":
            return model.values_of(outputs).reshape(len(outputs), -1).sum(1)
        if self.kind == "probability":
            return model.proba_of(outputs)[:, self.column]
        return torch.sigmoid(margin(model, outputs, self.column) / self.temperature)


def quantity_of(
    model: Model, criterion: str, surrogate: str, column: int | None, temperature: float
) -> Quantity:
    """Return the differentiable quantity whose group means a criterion compares."""
    if criterion == "loss_parity":
        return Measured(model, "loss")
    if column is None:
        return Measured(model, "value")
    kind: Literal["probability", "decision"] = (
        "probability" if surrogate == "probability" else "decision"
    )
    return Measured(model, kind, column, temperature)


def weighted_gradients(
    objective: Objective, data: Data, quantity: Quantity, weights: Tensor
) -> Tensor:
    """Return the gradients of weighted sums of a quantity with respect to θ, shape (p, k)."""
    leaves = objective.leaves()
    parameters = list(leaves.values())
    total = torch.zeros(
        objective.space.size, weights.shape[1], dtype=torch.float64, device=objective.space.device
    )

    def part(batch: Batch) -> Tensor:
        outputs = objective.call(leaves, batch.inputs)
        with torch.enable_grad():
            sums = weights[batch.indices].to(outputs).T @ quantity(outputs, batch.targets)
        columns = []
        for j in range(len(sums)):
            found = torch.autograd.grad(
                sums[j],
                parameters,
                retain_graph=j + 1 < len(sums),
                materialize_grads=True,
                allow_unused=True,
            )
            columns.append(torch.cat([g.reshape(-1) for g in found]).double())
        return torch.stack(columns, dim=1)

    for gradient in objective.map(part, data):
        total += gradient
    return total.to(objective.space.dtype)
