"""Input gradients of the explained numbers, all outputs from one forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Points (m, *features) and the row that each belongs to (m,) -> explained numbers (m[, c]).
Field = Callable[[Tensor, Tensor], Tensor]


def input_gradients(
    field: Field, points: Tensor, owner: Tensor, *, graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the field at ``points`` and its gradients there.

    Parameters
    ----------
    field : callable
        What is explained.
    points : Tensor of shape (m, *features)
        Where.
    owner : Tensor of shape (m,)
        Row of each point.
    graph : bool
        Keep the graph, so that both can be differentiated again.

    Returns
    -------
    values : Tensor of shape (m,) or (m, c)
    gradients : Tensor of shape (m, *features) or (m, *features, c)
    """
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        values = field(leaf, owner)
        columns = values[:, None] if values.ndim == 1 else values
        last = columns.shape[1] - 1
        found = [
            _one(columns[:, k], leaf, graph=graph, keep=graph or k < last) for k in range(last + 1)
        ]
    gradients = found[0] if values.ndim == 1 else torch.stack(found, dim=-1)
    return (values, gradients) if graph else (values.detach(), gradients)


def _one(column: Tensor, leaf: Tensor, *, graph: bool, keep: bool) -> Tensor:
    """Return the gradient of one output; zero where the graph does not reach the input."""
    if not column.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(
        column.sum(), leaf, create_graph=graph, retain_graph=keep, allow_unused=True
    )
    return torch.zeros_like(leaf) if gradient is None else gradient


def across(weights: Tensor, like: Tensor) -> Tensor:
    """Return (m,) weights in a shape that multiplies ``like`` (m, ...)."""
    return weights.reshape(-1, *[1] * (like.ndim - 1))


def grouped(x: Tensor, k: int) -> Tensor:
    """Return the rows of ``x`` in groups of ``k``: (m / k, k, ...)."""
    return x.reshape(-1, k, *x.shape[1:])


def weigh(gradients: Tensor, delta: Tensor) -> Tensor:
    """Return gradients (m, *features[, c]) times displacements (m, *features)."""
    return gradients * (delta if gradients.ndim == delta.ndim else delta[..., None])
