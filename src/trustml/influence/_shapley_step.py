"""What the rows of one training step did to a query, to first or second order."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.core.batches import Batch, map_batches
from trustml.ihvp import Objective
from trustml.ihvp.graphs import backward_columns, join, split
from trustml.influence._gradient_products import gradient_products
from trustml.influence._queries import Queries
from trustml.influence._train_rows import rows_at_once


def shares(
    objective: Objective, queries: Queries, rows: Tensor, learning_rate: float, order: int
) -> Tensor:
    """Return each row's Shapley value of the fall of each query's measurement in one step.

    Parameters
    ----------
    objective : Objective
        Before the step.
    queries : Queries
        The measurements.
    rows : Tensor of shape (b,)
        The batch.
    learning_rate : float
        Of the mean loss of the batch.
    order : int
        1, or 2 for the interactions of the rows.

    Returns
    -------
    Tensor of shape (q, b)
    """
    batch = objective.data.subset(rows)
    share = learning_rate / len(rows)
    first = share * gradient_products(objective, queries, data=batch)
    if order == 1:
        return first
    step = share * _total(objective, rows)
    curved = [objective.dot(H, batch).T for H in _hessian_products(objective, queries, step)]
    return first - share / 2 * torch.cat(curved)


def next_point(objective: Objective, rows: Tensor, learning_rate: float) -> Objective:
    """Return the objective after one plain step of gradient descent on the mean loss of rows.

    Parameters
    ----------
    objective : Objective
        Before the step.
    rows : Tensor of shape (b,)
        The batch.
    learning_rate : float
        Of the mean loss of the batch.

    Returns
    -------
    Objective
    """
    step = learning_rate / len(rows) * _total(objective, rows)
    return objective.at(objective.space.vector() - step)


def _total(objective: Objective, rows: Tensor) -> Tensor:
    """Return the sum of the rows' loss gradients, (p,)."""
    leaves = objective.leaves()

    @torch.enable_grad()
    def part(batch: Batch) -> Tensor:
        losses = objective.loss(objective.call(leaves, batch.inputs), objective.targets(batch))
        found = torch.autograd.grad(
            losses.sum(), list(leaves.values()), materialize_grads=True, allow_unused=True
        )
        return torch.cat([g.reshape(-1) for g in found])

    return objective.total(part, objective.data.subset(rows)).to(objective.space.dtype)


def _hessian_products(objective: Objective, queries: Queries, vector: Tensor) -> list[Tensor]:
    """Return the Hessian of each query's measurement times a vector, in blocks (p, b)."""
    leaves = objective.leaves()
    parameters = list(leaves.values())
    along = [part[0] for part in split(vector[:, None], parameters)]

    @torch.enable_grad()
    def part(batch: Batch) -> Tensor:
        values = queries.measure(objective.call(leaves, batch.inputs), batch.inputs, batch.targets)
        # The derivative along the vector, query by query, is that of the gradient's product with
        # the vector with respect to the weight of each query.
        weights = torch.ones_like(values, requires_grad=True)
        gradient = torch.autograd.grad(
            values, parameters, weights, create_graph=True, materialize_grads=True,
            allow_unused=True,
        )  # fmt: skip
        products = [(g * v).sum() for g, v in zip(gradient, along, strict=True)]
        (slopes,) = torch.autograd.grad(torch.stack(products).sum(), weights, create_graph=True)
        eye = torch.eye(len(slopes), dtype=slopes.dtype, device=slopes.device)
        return join(backward_columns([slopes], parameters, [eye]))

    return list(map_batches(part, queries.data, rows_at_once(objective.space.size)))
