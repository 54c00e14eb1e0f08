"""Scikit-learn's multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trustml.core.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    OutputLoss,
    Poisson,
    SquaredError,
)
from trustml.model.converted import Converted, Task, fitted_columns
from trustml.model.layers import linear

HEAD = "output"

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


def _module(estimator: Any) -> nn.Sequential:
    module = nn.Sequential()
    last = len(estimator.coefs_) - 1
    for i, (coef, intercept) in enumerate(
        zip(estimator.coefs_, estimator.intercepts_, strict=True)
    ):
        module.add_module(HEAD if i == last else f"hidden{i}", linear(coef.T, intercept))
        if i < last:
            module.add_module(f"activation{i}", _ACTIVATIONS[estimator.activation]())
    return module


def batch_penalty(estimator: Any, n: int) -> float:
    """Return the L2 coefficient of the mean loss that training followed with n rows.

    scikit-learn divides alpha by the rows of the current BATCH: by n for L-BFGS, but by the
    mini-batch size for SGD and Adam, whose penalty is therefore n / batch times stronger. The
    short last batch counts as one step like the others.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Its alpha, solver and batch size count.
    n : int
        Training rows.

    Returns
    -------
    float
    """
    alpha = float(estimator.alpha)
    if estimator.solver == "lbfgs":
        return alpha / n
    if getattr(estimator, "early_stopping", False):
        n = n - int(np.ceil(estimator.validation_fraction * n))
    size = min(200, n) if estimator.batch_size == "auto" else min(int(estimator.batch_size), n)
    full, rest = divmod(n, size)
    sizes = np.array([size] * full + [rest] * (rest > 0))
    return float(np.mean(alpha / sizes))


def _loss(estimator: Any) -> tuple[OutputLoss, float]:
    """Return the loss and the factor by which it is larger than scikit-learn's."""
    activation = estimator.out_activation_
    if activation == "softmax":
        return CrossEntropy(), 1.0
    if activation == "logistic":
        return BinaryCrossEntropy(), 1.0
    if activation == "exp":
        return Poisson(), 1.0
    return SquaredError(), 2.0  # backpropagated is half the squared error, summed over outputs


def convert(estimator: Any, labels: NDArray[Any] | None) -> Converted | None:
    """Turn a fitted ``MLPClassifier`` or ``MLPRegressor`` into linear layers and activations.

    Parameters
    ----------
    estimator : object
        Anything; only the two perceptrons are taken.
    labels : ndarray of shape (n, ...) or None
        Training labels; their number sets weight_decay.

    Returns
    -------
    Converted or None
        None if the estimator is not one of these.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if type(estimator) not in (MLPClassifier, MLPRegressor):
        return None
    loss, factor = _loss(estimator)
    module = _module(estimator)
    task: Task = "regression"
    classes = None
    if type(estimator) is MLPClassifier:
        several = estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1
        task = "multilabel" if several else "classification"
        classes = None if several else estimator.classes_
    decay: dict[str, float] | None = None
    if labels is not None:
        penalty = factor * batch_penalty(estimator, len(labels))
        decay = {name: penalty for name, _ in module.named_parameters() if name.endswith("weight")}
    width, names = fitted_columns(estimator)
    return Converted(
        source=estimator,
        module=module,
        outputs="values" if task == "regression" else "logits",
        task=task,
        classes=classes,
        loss=loss,
        weight_decay=decay,
        inverse_link=torch.exp if estimator.out_activation_ == "exp" else None,
        n_features=width,
        feature_names=names,
        head_name=HEAD,
        refit=Refit(estimator),
    )


@dataclass(frozen=True)
class Refit:
    """(X, y, n) -> a fitted clone with the penalty that it had for n rows."""

    estimator: Any

    def __call__(self, X: Any, y: Any, n: int) -> Any:
        """Return the estimator fitted on these rows."""
        from sklearn.base import clone

        old, fresh = self.estimator, clone(self.estimator)
        if old.alpha:
            # n * penalty(n) multiplies ½‖w‖² beside the SUM of losses: hold that.
            held = n * batch_penalty(old, n) / (len(y) * batch_penalty(old, len(y)))
            fresh.set_params(alpha=old.alpha * held)
        return fresh.fit(X, y)
