"""The training rows nearest to others in the metric of the Fisher kernel."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustml.core.batches import Inputs
from trustml.core.validation import check_positive_int, to_numpy
from trustml.ihvp import GaussNewton, Objective, factorize
from trustml.model import Model
from trustml.ood._seen import UnsuitableError, as_double

_RELATIVE_DAMPING = 1e-3
_BLOCK = 512


def nearest_rows(
    model: Model, X: Any, k: int, max_rows: int = 5000
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return training rows (n, k) in order of distance, and their distances (n, k).

    Parameters
    ----------
    model : Model
        With training rows and a differentiable last linear layer.
    X : array, tensor, frame, Dataset or DataLoader of n rows
        Rows to find neighbours of.
    k : int
        How many, at most the number of training rows that are looked at.
    max_rows : int
        Training rows that are looked at, evenly spaced.

    Returns
    -------
    tuple of array
        Indices of training rows; square roots of
        :math:`(g - g_i)' (G + λ)^{-1} (g - g_i)`.

    Raises
    ------
    UnsuitableError
        If the model lacks what is needed.
    """
    if model.train is None:
        raise UnsuitableError(
            "the training rows are not known; use trustml.wrap(..., train=(X, y))"
        )
    used = min(len(model.train), check_positive_int(max_rows, "max_rows"))
    which = torch.linspace(0, len(model.train) - 1, used, dtype=torch.float64).round().long()
    known, asked = _features(model, model.train.subset(which)), _features(model, X)
    head = _head(model)
    with torch.no_grad():
        targets = _targets(model, cast("Tensor", head(known)))
    objective = Objective(head, model.loss_fn, (known, targets))
    operator = GaussNewton(objective)
    damping = _RELATIVE_DAMPING * float(operator.diagonal().mean())
    inverse = factorize(operator + damping)
    own = torch.cat(
        [
            inverse.quadratic_form(_gradients(objective, some).T)
            for some in torch.split(known, _BLOCK)
        ]
    )
    nearest, distance = [], []
    for some in torch.split(asked, _BLOCK):
        rows = _gradients(objective, some).T
        solved = inverse.solve(rows).x
        across = objective.dot(solved, known, _answer).T
        squared = own + (rows * solved).sum(dim=0)[:, None] - 2 * across
        found = squared.clamp_min(0).topk(min(k, used), dim=1, largest=False)
        nearest.append(which.to(found.indices.device)[found.indices])
        distance.append(found.values.sqrt())
    return to_numpy(torch.cat(nearest)), to_numpy(torch.cat(distance))


def _features(model: Model, X: Any) -> Tensor:
    features = model.observe(X).features
    linear = model.differentiable and model.head_name is not None
    if not linear or features is None or features.ndim != 2:
        raise UnsuitableError(f"{model!r} has no last linear layer of vectors")
    return as_double(features)


def _head(model: Model) -> nn.Linear:
    """Return a float64 copy of the last layer as a module of its own."""
    layer = cast("nn.Linear", model.module.get_submodule(str(model.head_name)))
    parts = {"weight": layer.weight, "bias": layer.bias}
    c, h = layer.weight.shape
    # Made without initial values: they would be drawn from the global generator.
    head = nn.Linear(h, c, layer.bias is not None, device="meta", dtype=torch.float64)
    head = head.to_empty(device=layer.weight.device)
    head.load_state_dict({name: part.detach() for name, part in parts.items() if part is not None})
    return head.eval()


def _targets(model: Model, outputs: Tensor) -> Tensor:
    """Return the model's own labels: what the curvature of a likelihood does not depend on."""
    if model.task == "classification":
        return model.logits_of(outputs).argmax(dim=1)
    if model.task == "multilabel":
        return (outputs > 0).double()
    return outputs


def _gradients(objective: Objective, features: Tensor) -> Tensor:
    return objective.rows(features, _answer)


def _answer(outputs: Tensor, inputs: Inputs, targets: Tensor | None) -> Tensor:
    """Return the slope of the answer: the largest output less their mean, or the one output."""
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return torch.ones_like(outputs)
    chosen = nn.functional.one_hot(outputs.argmax(dim=1), outputs.shape[1])
    return chosen.to(outputs) - 1 / outputs.shape[1]
