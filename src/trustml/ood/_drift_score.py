"""Drift as the model's parameters feel it: the score test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Inputs, as_data, batch_length
from trustml.core.random import numpy_generator
from trustml.core.validation import check_positive_int
from trustml.ihvp import EmpiricalFisher, Objective, on_features, top_eigenpairs
from trustml.model import Model

_DIRECTIONS = 32
_ROWS_A_DIRECTION = 20
_ROWS_FOR_DIRECTIONS = 2000
_FLAT = 1e-8  # of the largest eigenvalue; no row has a gradient beyond rounding there


def score_coordinates(
    model: Model,
    X_ref: Any,
    X_new: Any,
    y_ref: Any = None,
    y_new: Any = None,
    *,
    parameters: str | Sequence[str] | None = "last_layer",
    n_directions: int | None = None,
    random_state: Any = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return each row's gradient along the leading directions of the Fisher matrix.

    With :math:`g_i` the gradient of a row's loss and :math:`U` the leading eigenvectors of
    :math:`F = \sum_i g_i g_i'` over the pooled rows, the coordinates are :math:`U'g_i`.
    Hotelling's test of their means is the score test :math:`n \bar g' F^{-1} \bar g`, centred at
    the mean gradient of the reference rows; F is that of the rows, not of a model that is right.

    Parameters
    ----------
    model : Model
        A differentiable model.
    X_ref, X_new : array, tensor, frame, Dataset or DataLoader of n and m rows
        Reference rows and new ones.
    y_ref, y_new : array of shape (n,), (m,), or None
        Labels. Without: gradients of the model's answer - its predicted values, or its score of
        the class that it predicts.
    parameters : selection or None
        Which parameters, as for `trustml.ihvp.Objective`; "last_layer" means all where the model
        has none.
    n_directions : int or None
        How many; None takes 32, or fewer if there are not 20 rows of each sample for each.
    random_state : int, Generator or None
        Seed of the rows that the directions are found from.

    Returns
    -------
    tuple of array of shape (n, k), (m, k)

    Raises
    ------
    ValueError
        If only one of the samples has labels, or every gradient is zero.
    """
    model.require_gradients("the score test")
    if (y_ref is None) != (y_new is None):
        raise ValueError("give labels for both samples, y_ref and y_new, or for neither")
    first, second = _inputs(model, X_ref), _inputs(model, X_new)
    n, m = batch_length(first), batch_length(second)
    labels = None if y_ref is None else _labels(model, (y_ref, y_new), (n, m))
    inputs = _joined(first, second)
    objective = _objective(model, inputs, n + m, labels, parameters)
    few = max(1, min(_DIRECTIONS, min(n, m) // _ROWS_A_DIRECTION))
    wanted = few if n_directions is None else check_positive_int(n_directions, "n_directions")
    # Chosen among the pooled rows, blindly: the directions must not know which row is whose.
    some = numpy_generator(random_state).permutation(n + m)[:_ROWS_FOR_DIRECTIONS]
    sample = objective.data.subset(torch.as_tensor(np.sort(some)))
    fisher = EmpiricalFisher(objective.like(objective.module, sample, objective.space))
    values, vectors = top_eigenpairs(fisher, min(wanted, objective.space.size))
    if not bool(values[0] > 0):
        raise ValueError("every row's gradient is zero: this model's answers do not vary")
    found = objective.dot(vectors[:, values > _FLAT * values[0]]).double().cpu().numpy()
    return found[:n], found[n:]


def _objective(
    model: Model, inputs: Inputs, total: int, labels: Tensor | None, parameters: Any
) -> Objective:
    if parameters == "last_layer" and model.head_name is None:
        parameters = None
    loss: Any = model.loss_fn
    if labels is None:
        loss = _chosen if model.task == "classification" else _summed
        labels = torch.zeros(total, dtype=torch.long, device=model.device)
    objective = Objective(model.module, loss, (inputs, labels), parameters, head=model.head_name)
    return on_features(objective) if parameters == "last_layer" else objective


def _labels(model: Model, given: tuple[Any, Any], rows: tuple[int, int]) -> Tensor:
    found = [model.targets(y) for y in given]
    for y, n in zip(found, rows, strict=True):
        if len(y) != n:
            raise ValueError(f"X has {n} rows, y has {len(y)}; give one label a row")
    return torch.cat(found)


def _chosen(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the score of the predicted class; the one score of a classifier of two."""
    return outputs.reshape(len(outputs), -1).amax(dim=1)


def _summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.reshape(len(outputs), -1).sum(dim=1)


def _inputs(model: Model, X: Any) -> Inputs:
    if isinstance(X, (Dataset, DataLoader)):
        return as_data(X, prepare=model.inputs).inputs
    return model.inputs(X)


def _joined(first: Inputs, second: Inputs) -> Inputs:
    if isinstance(first, Tensor):
        return torch.cat([first, cast("Tensor", second)])
    if isinstance(first, dict):
        return {
            key: torch.cat([part, cast("dict[str, Tensor]", second)[key]])
            for key, part in first.items()
        }
    return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
