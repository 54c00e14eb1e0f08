"""The validation rows: what a model's gap, loss and accuracy are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trustml.core.batches import Batch, Data
from trustml.fairness._criteria import Compared
from trustml.fairness._surrogates import Measured
from trustml.ihvp import Objective
from trustml.model import Model


class Outcome(NamedTuple):
    """What a model does on the validation rows.

    Attributes
    ----------
    decisions : float
        The gap of decisions (of predictions for regression).
    gap : float
        The surrogate gap.
    accuracy : float
        Accuracy, R² for regression; NaN without labels.
    loss : float
        Mean loss; NaN without labels.
    values, decided : numpy.ndarray of shape (k,)
        What is compared: the surrogate's, and that of decisions.
    """

    decisions: float
    gap: float
    accuracy: float
    loss: float
    values: np.ndarray
    decided: np.ndarray


@dataclass(frozen=True, eq=False)
class Validation:
    """What a candidate is measured on."""

    model: Model
    data: Data
    compared: Compared
    quantity: Measured
    targets: Tensor | None

    def outputs(self, objective: Objective) -> Tensor:
        """Return the raw outputs of all rows."""
        return torch.cat(list(objective.map(lambda b: objective.outputs(b.inputs), self.data)))

    def measure(self, objective: Objective) -> Outcome:
        """Return gap, accuracy and loss at the objective's parameters."""
        outputs, targets, compared = self.outputs(objective), self.targets, self.compared
        values = compared.means(self.quantity(outputs, targets))
        decided = compared.means(self.quantity.decided(outputs, targets))
        accuracy = loss = float("nan")
        if targets is not None:
            loss = float(self.model.loss_fn(outputs, targets).double().mean())
            if self.model.task == "regression":
                accuracy = self._explained(outputs, targets)
            else:
                correct = self.model.logits_of(outputs).argmax(1) == targets.reshape(-1)
                accuracy = float(correct.double().mean())
        gaps = float(compared.gap(decided)), float(compared.gap(values))
        return Outcome(*gaps, accuracy, loss, values, decided)

    def gradients(self, objective: Objective) -> Tensor:
        """Return the gradients (p, k) of the values; with labels (p, k + 1), the mean loss last."""
        outputs = self.outputs(objective).detach().requires_grad_()
        with torch.enable_grad():
            values = self.compared.of(self.quantity(outputs, self.targets).double())
            if self.targets is not None:
                loss = self.model.loss_fn(outputs, self.targets).double().mean()
                values = torch.cat([values, loss[None]])
            pulls = [
                torch.autograd.grad(value, outputs, retain_graph=True, materialize_grads=True)[0]
                for value in values
            ]
        leaves = objective.leaves()
        parameters = list(leaves.values())
        total = torch.zeros(
            objective.space.size, len(pulls), dtype=torch.float64, device=objective.space.device
        )

        def part(batch: Batch) -> Tensor:
            own = objective.call(leaves, batch.inputs)
            columns = []
            for j, pull in enumerate(pulls):
                found = torch.autograd.grad(
                    own,
                    parameters,
                    pull[batch.indices.to(pull.device)],
                    retain_graph=j + 1 < len(pulls),
                    materialize_grads=True,
                    allow_unused=True,
                )
                columns.append(torch.cat([g.reshape(-1) for g in found]).double())
            return torch.stack(columns, dim=1)

        for gradient in objective.map(part, self.data):
            total += gradient
        return total.to(objective.space.dtype)

    def _explained(self, outputs: Tensor, targets: Tensor) -> float:
        target = targets.reshape(len(outputs), -1)
        residual = self.model.values_of(outputs).reshape(len(outputs), -1) - target
        spread = float((target - target.mean(0)).square().sum())
        return 1 - float(residual.square().sum()) / spread if spread > 0 else float("nan")
