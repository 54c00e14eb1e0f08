"""What every conformal regressor reads: one predicted mean and one target a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import check_finite, to_numpy
from trustml.model import Model, as_model, wrap


def as_regressor(model: Any, what: str) -> Model:
    """Return a `Model` for regression; what has no ``predict``, as a callable, is taken for one.

    Returns
    -------
    Model
    """
    bare = not isinstance(model, Model) and not hasattr(model, "predict")
    found = wrap(model, task="regression") if bare else as_model(model)
    check_regressor(found, what)
    return found


def check_regressor(model: Model, what: str) -> None:
    """Refuse a model that is no regressor; ``what`` names the caller.

    Raises
    ------
    TypeError
        If the model's task is another.
    """
    if model.task != "regression":
        raise TypeError(
            f"{what} needs a regressor, got a model for {model.task}; for classification use "
            "SplitClassifier"
        )


def predicted(model: Model, X: Any) -> np.ndarray:
    """Return predicted means (n,) in float64.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If the model has several outputs, or one is not finite.
    """
    values = to_numpy(model.values_of(model.observe(X).outputs)).astype(np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"intervals are for models of one output, this one gives {values.shape}; wrap one "
            "model for each output"
        )
    check_finite(values, "the model's predictions")
    return values


def measured(model: Model, y: Any) -> np.ndarray:
    """Return targets (n,) in float64, checked by the model but not rounded to its dtype.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are several targets a row.
    """
    targets = model.targets(y)
    if targets.ndim != 1:
        raise ValueError(
            f"intervals are for models of one output, y has shape {tuple(targets.shape)}; wrap "
            "one model for each output"
        )
    return to_numpy(y).astype(np.float64).reshape(len(targets))
