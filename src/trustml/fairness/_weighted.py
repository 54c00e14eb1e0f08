"""The training objective with weights of rows, and its minimum by Newton steps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core._sources import Source
from trustml.core.batches import Data
from trustml.core.losses import Autodiff, OutputLoss
from trustml.ihvp import Factorization, Objective, curvature, factorize, on_features
from trustml.influence import InfluenceFunctions

_HALVINGS = 8
_WELL = 0.1  # of the gradient left after a step: the same curvature will do for the next
_ENOUGH = 1e-6  # of the weights' pull is left: another step would change nothing that matters


class RowWeighted(OutputLoss):
    """Another loss times a weight that stands in the last column of the targets.

    Parameters
    ----------
    base : OutputLoss
        The unweighted loss.
    like : Tensor of shape (n, ...)
        Targets as ``base`` takes them.
    """

    def __init__(self, base: OutputLoss, like: Tensor) -> None:
        self.base, self._shape, self._dtype = base, like.shape[1:], like.dtype
        self.name, self.unit = f"weighted {base.name}", base.unit

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each example, (n,)."""
        y, weight = self._split(targets)
        return weight.to(outputs) * self.base(outputs, y)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative with respect to the outputs, in their shape."""
        y, weight = self._split(targets)
        return _times(weight, self.base.gradient(outputs, y))

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return the output Hessian times ``vectors``."""
        y, weight = self._split(targets)
        return _times(weight, self.base.hessian_product(outputs, y, vectors))

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return S of shape (n, c, r) with S S' the output Hessian."""
        y, weight = self._split(targets)
        return _times(weight.sqrt(), self.base.hessian_factor(outputs, y))

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Refuse: drawn targets have no weights.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            "a sampled Fisher matrix of weighted rows is not defined; use "
            'InfluenceFunctions(model, curvature="gauss_newton")'
        )

    def _split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        y = targets[:, :-1].reshape(len(targets), *self._shape)
        return y.to(self._dtype) if not self._dtype.is_floating_point else y, targets[:, -1]


class _WeightedRows(Source):
    """The rows of other data, with a weight beside each target."""

    def __init__(self, data: Data, weights: Tensor) -> None:
        self.data, self.weights = data, weights

    def __len__(self) -> int:
        return len(self.data)

    def fetch(self, indices: Tensor) -> tuple[Any, Tensor | None]:
        batch = self.data.subset(indices).rows(0, len(indices))
        y = batch.targets
        if y is None:
            raise ValueError("the training data have no targets; wrap(..., train=(X, y))")
        beside = self.weights[indices].to(y.device)[:, None]
        return batch.inputs, torch.cat([y.reshape(len(y), -1).double(), beside], dim=1)


def weighted(objective: Objective, weights: np.ndarray) -> Objective:
    """Return (1/n) Σ w_i ℓ_i + R: the same n and regulariser, rows with weights.

    Parameters
    ----------
    objective : Objective
        With weights of 1.
    weights : numpy.ndarray of shape (n,)
        At least 0.

    Returns
    -------
    Objective
    """
    like = objective.data.rows(0, 1).targets
    other = copy.copy(objective)
    base = objective.loss
    loss: OutputLoss = RowWeighted(base, torch.empty(0) if like is None else like)
    if isinstance(base, Autodiff):  # the engine takes the positive part of such a loss only
        loss = Autodiff(loss, loss.name)
    other.loss = loss
    if objective.batch_size == "auto":
        other.batch_size = objective.data.auto_batch
    other.data = Data(_WeightedRows(objective.data, torch.as_tensor(weights, dtype=torch.float64)))
    return other


def inverse_of(influence: InfluenceFunctions, objective: Objective) -> Factorization:
    """Return the inverse of a weighted objective's curvature, as the influence functions do it."""
    operator = curvature(influence.curvature, on_features(objective)) + influence.damping_
    return factorize(operator, influence.inverse_.method, influence.tol)


def newton(
    influence: InfluenceFunctions,
    weights: np.ndarray,
    start: Tensor | None = None,
    steps: int = 1,
    enough: float = _ENOUGH,
) -> tuple[Tensor, float]:
    """Return the parameters (p,) for other weights of the training rows.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted.
    weights : numpy.ndarray of shape (n,)
        Of the rows.
    start : Tensor of shape (p,), or None
        Where to start; None: at the model's parameters.
    steps : int
        At most so many Newton steps; the weighted curvature is kept while they gain quickly.
    enough : float
        Part of the weights' pull that may be left.

    Returns
    -------
    vector : Tensor of shape (p,)
    remaining : float
        Part of the weights' pull on the parameters that is still there: 0 at the minimum.
    """
    base = influence.objective_
    origin = base.space.vector()
    held = base.gradient()  # a model that is not at a minimum keeps the gradient it had
    size = float((weighted(base, weights).gradient() - held).norm())
    vector = origin if start is None else start
    if size == 0.0:
        return origin, 0.0
    here = weighted(base.at(vector), weights)
    rest = here.gradient() - held
    height = _height(here, held, vector)
    inverse = None
    for _ in range(steps):
        if float(rest.norm()) <= enough * size:
            break
        if inverse is None:
            inverse = inverse_of(influence, here)
        step = inverse.solve(rest).x.to(vector)
        descent = float((rest * step).sum())
        noise = 10 * torch.finfo(vector.dtype).eps * abs(height)
        for halving in range(_HALVINGS + 1):
            tried = vector - step / 2**halving
            moved = weighted(base.at(tried), weights)
            reached = _height(moved, held, tried)
            if reached <= height - 1e-4 * descent / 2**halving + noise:
                break
        else:
            break
        vector, here, height, before = tried, moved, reached, rest
        rest = here.gradient() - held
        if float(rest.norm()) > _WELL * float(before.norm()):  # the curvature has changed
            inverse = None
    return vector, float(rest.norm()) / size


def _height(objective: Objective, held: Tensor, vector: Tensor) -> float:
    """Return what the Newton steps go down: the objective without the gradient that is kept."""
    return objective.value() - float(held.double() @ vector.double())


def _times(weight: Tensor, x: Tensor) -> Tensor:
    """Give (n,) the trailing axes of ``x``, and multiply."""
    return weight.to(x).reshape(-1, *[1] * (x.ndim - 1)) * x
