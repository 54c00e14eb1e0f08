"""Inner products of queries' and training rows' gradients, without holding either as rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core.batches import Batch, Data, map_batches
from trustml.ihvp import Objective
from trustml.influence._queries import Queries
from trustml.influence._train_rows import rows_at_once


def loss_gradient(objective: Objective, batch: Batch) -> Callable[[Tensor], Tensor]:
    """Return the map from a batch's outputs to its losses' gradient in output space."""
    return lambda outputs: objective.loss.gradient(outputs, objective.targets(batch))


def gradient_products(
    objective: Objective, queries: Queries, metric: Tensor | None = None, data: Data | None = None
) -> Tensor:
    """Return g_q' M g_i for each query's measurement and each row's loss, M diagonal.

    Parameters
    ----------
    objective : Objective
        At the parameters where the gradients are taken.
    queries : Queries
        Their terms are held in blocks; the rows pass by once a block.
    metric : Tensor of shape (p,) or None
        Diagonal of M, constant within each parameter; None is the identity.
    data : Data or None
        Rows with targets; None takes the training data.

    Returns
    -------
    Tensor of shape (q, n)
    """
    rows = objective.data if data is None else data
    weights = _per_parameter(objective, metric)
    gradients = objective.gradients

    def block(batch: Batch) -> Tensor:
        held: list[Terms] = []

        def keep(terms: Terms) -> Tensor:
            held.append(terms)
            return torch.zeros(terms[0][1].n)

        gradients.measure(batch.inputs, queries.cotangents(batch), keep)

        def read(terms: Terms) -> Tensor:
            return torch.cat([_gram(terms, other, weights) for other in held], dim=1)

        def part(train: Batch) -> Tensor:
            return gradients.measure(train.inputs, loss_gradient(objective, train), read)[1]

        return objective.collect(part, rows).T

    return torch.cat(list(map_batches(block, queries.data, _rows_held(objective))))


def squared_norms(objective: Objective, metric: Tensor | None = None) -> Tensor:
    """Return g_i' M g_i for each training row's loss, (n,); ``metric`` as for the products."""
    weights = _per_parameter(objective, metric)

    def read(terms: Terms) -> Tensor:
        parts = [term.squared_norm() for _, term in terms]
        return (torch.stack(parts, dim=1) * weights).sum(1)

    def part(batch: Batch) -> Tensor:
        gradient = loss_gradient(objective, batch)
        return objective.gradients.measure(batch.inputs, gradient, read)[1]

    return objective.collect(part)


def _gram(terms: Terms, other: Terms, weights: Tensor) -> Tensor:
    pairs = zip(terms, other, weights, strict=True)
    return torch.stack([w * a.gram(b) for (_, a), (_, b), w in pairs]).sum(0)


def _per_parameter(objective: Objective, metric: Tensor | None) -> Tensor:
    space = objective.space
    if metric is None:
        return torch.ones(len(space.names), dtype=space.dtype, device=space.device)
    return torch.stack([metric[s.start] for s in space.slices.values()])


def _rows_held(objective: Objective) -> int:
    """Return for how many queries terms are held at once; without layers they are whole rows."""
    if objective.gradients.backend == "auto":
        objective.gradients.squared_norm(objective.data.rows(0, 1).inputs, torch.ones_like)
    layers = objective.gradients.backend == "hooks"
    return objective.capped(512 if layers else rows_at_once(objective.space.size))
