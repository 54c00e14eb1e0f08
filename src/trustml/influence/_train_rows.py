"""The training rows' loss gradients: held where they fit, computed batch by batch where not."""

from __future__ import annotations

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
    """Gradients J_i' u_i of the training rows, for cotangents u_i that were computed once.

    Parameters
    ----------
    objective : Objective
        Its data are the rows.
    cotangents : Tensor of shape (n, ...)
        u_i, in the shape of the outputs.
    """

    def __init__(self, objective: Objective, cotangents: Tensor) -> None:
        self.objective, self.cotangents = objective, cotangents
        self._fits = len(cotangents) * objective.space.size <= BUDGET
        self._held: Tensor | None = None

    def dot(self, vectors: Tensor) -> Tensor:
        """Return the gradients times ``vectors`` (p, k), shape (n, k)."""
        if self._fits:
            return self._all() @ vectors
        gradients = self.objective.gradients

        def part(batch: Batch) -> Tensor:
            u = self.cotangents[batch.indices.to(self.cotangents.device)]
            return gradients.dot(batch.inputs, lambda _: u, vectors)[1]

        return self.objective.collect(part)

    def rows(self, indices: Tensor) -> Tensor:
        """Return the gradients at ``indices``, shape (m, p)."""
        if self._fits:
            return self._all()[indices.to(self.cotangents.device)]
        return self._compute(indices)

    def total(self, indices: Tensor) -> Tensor:
        """Return the sum of the gradients at ``indices``, shape (p,), without holding them."""
        size = rows_at_once(self.objective.space.size)
        return torch.stack([self.rows(part).sum(0) for part in torch.split(indices, size)]).sum(0)

    def _all(self) -> Tensor:
        if self._held is None:
            self._held = self._compute(torch.arange(len(self.cotangents)))
        return self._held

    def _compute(self, indices: Tensor) -> Tensor:
        gradients = self.objective.gradients
        chosen = self.cotangents[indices.to(self.cotangents.device)]

        def part(batch: Batch) -> Tensor:
            u = chosen[batch.indices.to(chosen.device)]
            return gradients.rows(batch.inputs, lambda _: u)[1]

        data = self.objective.data.subset(indices)
        return self.objective.collect(part, data, rows_at_once(self.objective.space.size))
