"""The training rows' loss gradients, computed batch by batch and never held together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.ihvp import Objective

BUDGET = 2**25  # numbers: 256 MiB in float64

_BATCH = 512


def rows_at_once(numbers_a_row: int) -> int:
    """Return how many rows of this size fit into the budget, at most one ordinary batch."""
    return max(1, min(_BATCH, BUDGET // max(1, numbers_a_row)))


def loss_cotangents(objective: Objective) -> Tensor:
    """Return the loss's gradient with respect to the outputs of every training row, (n, ...)."""

    def part(batch: Batch) -> Tensor:
        if batch.targets is None:
            raise ValueError("the training data have no targets; wrap(..., train=(X, y))")
        return objective.loss.gradient(objective.outputs(batch.inputs), batch.targets)

    return objective.collect(part)


class TrainRows:
    """Gradients J_i' u_i of the training rows, for cotangents u_i.

    Parameters
    ----------
    objective : Objective
        Its data are the rows.
    cotangents : Tensor of shape (n, ...) or None
        u_i, in the shape of the outputs; None takes the loss's, in the pass that needs them.
    """

    def __init__(self, objective: Objective, cotangents: Tensor | None = None) -> None:
        self.objective, self._given = objective, cotangents

    @property
    def cotangents(self) -> Tensor:
        """u_i of all rows, (n, ...)."""
        if self._given is None:
            self._given = loss_cotangents(self.objective)
        return self._given

    def dot(self, vectors: Tensor) -> Tensor:
        """Return the gradients times ``vectors`` (p, k), shape (n, k)."""
        gradients = self.objective.gradients

        def part(batch: Batch) -> Tensor:
            return gradients.dot(batch.inputs, self._of(batch, batch.indices), vectors)[1]

        return self.objective.collect(part)

    def _of(self, batch: Batch, indices: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the cotangents of a batch that holds the rows ``indices``."""
        if self._given is None:
            objective = self.objective
            return lambda outputs: objective.loss.gradient(outputs, objective.targets(batch))
        u = self._given[indices.to(self._given.device)]
        return lambda _: u

    def rows(self, indices: Tensor) -> Tensor:
        """Return the gradients at ``indices``, shape (m, p)."""
        gradients = self.objective.gradients

        def part(batch: Batch) -> Tensor:
            of = self._of(batch, indices[batch.indices])
            return gradients.rows(batch.inputs, of)[1]

        data = self.objective.data.subset(indices)
        return self.objective.collect(part, data, rows_at_once(self.objective.space.size))

    def total(self, indices: Tensor) -> Tensor:
        """Return the sum of the gradients at ``indices``, shape (p,), without holding them."""
        size = rows_at_once(self.objective.space.size)
        return torch.stack([self.rows(part).sum(0) for part in torch.split(indices, size)]).sum(0)
