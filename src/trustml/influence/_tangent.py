r"""Ridge regression on a model's gradients, and its leave-one-out predictions in closed form.

A model that has learnt its wrong labels by heart predicts them, and one Newton step without a row
leaves most of what the row did to the features. Its tangent kernel
:math:`K_{ij} = \sum_k \nabla f_k(x_i)' \nabla f_k(x_j)` still says which rows are alike, and a
strongly regularised regression of the labels on it must side with the many.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.projections import RandomProjection
from trustml.core.random import torch_generator
from trustml.core.validation import to_numpy
from trustml.ihvp import Objective

_WIDTH = 2048  # gradients of all outputs together; more moves no AUC in its third digit
_NUMBERS = 2**27
_WHOLE = 2**24  # numbers: gradients are not projected where all of them are few
_DIRECTIONS = 16
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def tangent_features(objective: Objective) -> Tensor:
    """Return rows of norm one whose inner products are the cosines of the tangent kernel.

    Parameters
    ----------
    objective : Objective
        Of outputs (n, c). Its gradients are projected where they are long; of many outputs, a few
        random combinations stand for all.

    Returns
    -------
    Tensor of shape (n, k)
        float64; zero where the outputs do not depend on the parameters.
    """
    n, p = len(objective.data), objective.space.size
    directions = _directions(objective.outputs(objective.data.rows(0, 1).inputs))
    width = max(1, min(_WIDTH, _NUMBERS // n) // len(directions))
    whole = p <= width or n * p * len(directions) <= _WHOLE
    projection = None if whole else RandomProjection(objective.space, width)

    def part(batch: Batch) -> Tensor:
        def cotangents(outputs: Tensor) -> Tensor:
            chosen = directions.to(outputs)
            return chosen.expand(len(outputs), *chosen.shape)

        gradients = objective.gradients
        if projection is None:
            found = gradients.rows(batch.inputs, cotangents)[1]
        else:
            found = gradients.project(batch.inputs, cotangents, projection)[1]
        flat = found.reshape(len(batch), -1).double()
        return torch.nn.functional.normalize(flat, dim=1)

    return objective.collect(part)


def leave_one_out_ridge(features: Tensor, targets: np.ndarray) -> np.ndarray:
    """Return what ridge regression without a row predicts for it.

    Of seven penalties it takes the one whose leave-one-out squared error is least.

    Parameters
    ----------
    features : Tensor of shape (n, k)
        A constant is added.
    targets : numpy.ndarray of shape (n, m)
        Numbers.

    Returns
    -------
    numpy.ndarray of shape (n, m)
    """
    constant = features.mean(0).norm().expand(len(features), 1)
    phi, y = (
        torch.cat([features, constant], dim=1),
        torch.as_tensor(targets, device=features.device),
    )
    if phi.shape[1] < len(phi):
        squares, v = torch.linalg.eigh(phi.T @ phi)
        u = phi @ v / squares.clamp(min=1e-12).sqrt()
    else:
        squares, u = torch.linalg.eigh(phi @ phi.T)
    squares = squares.clamp(min=0.0)
    best, least = y, torch.inf
    for ridge in _RIDGES:
        shrunk = u * (squares / (squares + ridge))
        predicted, leverage = shrunk @ (u.T @ y), (shrunk * u).sum(1, keepdim=True)
        apart = (predicted - leverage * y) / (1 - leverage)
        error = float((apart - y).square().mean())
        if error < least:
            best, least = apart, error
    return to_numpy(best)


def _directions(outputs: Tensor) -> Tensor:
    """Return all outputs' axes, or a few random sign vectors, in the shape of one row's outputs."""
    one = outputs[0].detach().double().cpu()
    if one.numel() <= _DIRECTIONS:
        return torch.eye(one.numel(), dtype=one.dtype).reshape(one.numel(), *one.shape)
    signs = torch.randint(0, 2, (_DIRECTIONS, *one.shape), generator=torch_generator(0))
    return 2.0 * signs.double() - 1.0
