"""The model trained anew with weights of its training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trustml.model import Model, wrap
from trustml.model.linear import class_weights


def require_refit(model: Model, weights: np.ndarray | None = None) -> None:
    """Raise if a model cannot be trained anew, before anything is computed.

    Parameters
    ----------
    model : Model
        With training data.
    weights : numpy.ndarray of shape (n,), or None
        Of its training rows; None: they are not known yet, and will be fractions.

    Raises
    ------
    TypeError
        If the weights are fractions and the estimator's ``fit``, of a pipeline its last step's,
        takes no ``sample_weight``; if rows are left out and there is no way to train it.
    ValueError
        If no row, or none of a class, has any weight.
    """
    from sklearn.utils.validation import has_fit_parameter

    if weights is not None:
        labels = model._training.labels  # type: ignore[union-attr]
        if not weights.any():
            raise ValueError("refit=True needs rows to train on, but all weights are 0")
        if model.classes_ is not None:
            missing = np.setdiff1d(labels, labels[weights > 0])
            if len(missing):
                raise ValueError(
                    f"refit=True: no training row of the classes {missing.tolist()[:5]} has any "
                    "weight, so the model trained with these would not know them"
                )
    if weights is not None and _whole(weights):
        if model.refit is None:
            raise TypeError(
                "refit=True leaves rows out, but this model cannot be trained anew: pass "
                "train_fn=, a callable (X, y) -> fitted estimator, to wrap"
            )
        return
    end = _end(model.estimator)
    plain = hasattr(end, "fit") and not isinstance(end, torch.nn.Module)
    if not plain or not has_fit_parameter(end, "sample_weight"):
        raise TypeError(
            "refit=True needs a scikit-learn estimator, or the last step of a pipeline, whose fit "
            f"takes sample_weight, got {type(end).__name__}; train with the weights yourself, and "
            "measure that model"
        )


def refitted(model: Model, weights: np.ndarray) -> Model:
    """Return the model trained anew with weights of its training rows.

    Of a pipeline, the last step: its transformers stay as fitted.

    Parameters
    ----------
    model : Model
        With training data, and what ``require_refit`` asks for.
    weights : numpy.ndarray of shape (n,)
        At least 0.

    Returns
    -------
    Model
    """
    from sklearn.base import clone
    from sklearn.pipeline import Pipeline

    require_refit(model, weights)
    if _whole(weights):
        return model.retrain(np.flatnonzero(weights))
    training: Any = model._training
    X, y = training.subset(np.arange(len(training)))
    estimator, end = model.estimator, _end(model.estimator)
    fresh = clone(end)
    fixed = class_weights(end, training.labels)
    if fixed is not None:  # "balanced" as it was: weights must not move it
        fresh.set_params(class_weight=fixed)
    if not isinstance(estimator, Pipeline):
        return wrap(fresh.fit(X, y, sample_weight=weights), train=(X, y))
    fresh.fit(estimator[:-1].transform(X), y, sample_weight=weights)
    return wrap(Pipeline([*estimator.steps[:-1], (estimator.steps[-1][0], fresh)]), train=(X, y))


def _whole(weights: np.ndarray) -> bool:
    return bool(np.isin(weights, (0.0, 1.0)).all())


def _end(estimator: Any) -> Any:
    """Return what is trained with weights: of a pipeline, its last step."""
    from sklearn.pipeline import Pipeline

    return estimator[-1] if isinstance(estimator, Pipeline) else estimator
