"""The converters, tried in order."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from trustml.model import glm, huggingface, linear, mlp, pipeline, predictions
from trustml.model import torch as torch_modules
from trustml.model.converted import Converted, Task


def convert(
    estimator: Any,
    task: Task | None,
    labels: NDArray[Any] | None,
    device: torch.device | str | None,
) -> Converted:
    """Return what ``Model`` reads of anything trained.

    Parameters
    ----------
    estimator : object
        Torch module, fitted estimator, transformers model or callable.
    task : str or None
        What the user says it is for.
    labels : ndarray of shape (n, ...) or None
        Training labels as the user gave them.
    device : torch.device, str or None
        Where to run; None is where the model lives.

    Returns
    -------
    Converted

    Raises
    ------
    TypeError
        If it is none of these.
    """
    for convert_torch in (huggingface.convert, torch_modules.convert):
        if (converted := convert_torch(estimator, task, device)) is not None:
            return converted
    if isinstance(estimator, type):
        raise TypeError(f"{estimator.__name__} is a class; pass a trained instance of it")
    if callable(getattr(estimator, "predict", None)) or hasattr(estimator, "fit"):
        fitted = _fitted(estimator)
        found = (
            _differentiable(fitted, labels)
            or pipeline.convert(fitted, labels, _differentiable)
            or predictions.convert_estimator(fitted, labels)
        )
        if found is not None:
            if found.module is not None and device is not None:
                found.module.to(device)
            return found
    if callable(estimator):
        return predictions.convert_callable(estimator, task)
    raise TypeError(
        f"cannot wrap {type(estimator).__name__}: pass a torch module, a fitted scikit-learn "
        "classifier, regressor or Pipeline, a transformers model, or a callable X -> outputs"
    )


def _differentiable(estimator: Any, labels: NDArray[Any] | None) -> Converted | None:
    estimator = _inner(estimator)
    for converter in (linear, glm, mlp):
        converted: Converted | None = converter.convert(estimator, labels)
        if converted is not None:
            return converted
    return None


def _fitted(estimator: Any) -> Any:
    """Return the estimator, or the one inside a search; say so if it is not fitted."""
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_is_fitted

    if isinstance(estimator, BaseEstimator):
        check_is_fitted(estimator)
    return _inner(estimator)


def _inner(estimator: Any) -> Any:
    while True:
        inner = getattr(estimator, "best_estimator_", None)
        if inner is None and type(estimator).__name__ == "FrozenEstimator":
            inner = estimator.estimator
        if inner is None:
            return estimator
        estimator = inner
