"""Models that only predict: forests, boosting, neighbours, callables, stored outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustml.core.batches import forward
from trustml.core.modes import evaluating
from trustml.model.converted import Converted, Outputs, Task, fitted_columns


def estimator_task(estimator: Any) -> Task:
    """Return the task of a fitted estimator with scikit-learn's interface.

    Parameters
    ----------
    estimator : object
        Any with ``predict``.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If it is neither a classifier nor a regressor.
    """
    from sklearn.base import is_classifier, is_regressor

    if isinstance(getattr(estimator, "classes_", None), list):
        return "multilabel"
    if is_classifier(estimator) or hasattr(estimator, "predict_proba"):
        return "classification"
    if is_regressor(estimator):
        return "regression"
    if hasattr(estimator, "classes_"):
        return "classification"
    raise TypeError(
        f"{type(estimator).__name__} is neither a classifier nor a regressor; pass a fitted "
        "classifier or regressor, or a callable X -> outputs with task="
    )


def convert_estimator(estimator: Any, labels: NDArray[Any] | None) -> Converted | None:
    """Serve any other fitted estimator through its own ``predict`` and ``predict_proba``.

    Parameters
    ----------
    estimator : object
        Anything; taken if it has ``predict``.
    labels : ndarray of shape (n, ...) or None
        Training labels; not used.

    Returns
    -------
    Converted or None
        None if it has no ``predict``.

    Raises
    ------
    TypeError
        If it is neither a classifier nor a regressor, or gives no scores.
    """
    if not callable(getattr(estimator, "predict", None)):
        return None
    task = estimator_task(estimator)
    call: Callable[[Any], Any]
    kind: Outputs
    if task == "regression":
        call, kind = estimator.predict, "values"
    elif hasattr(estimator, "predict_proba"):
        call, kind = estimator.predict_proba, "probabilities"
        if task == "multilabel":
            call = PositiveColumns(estimator)
    elif hasattr(estimator, "decision_function"):
        call, kind = estimator.decision_function, "logits"
    else:
        raise TypeError(
            f"{type(estimator).__name__} has neither predict_proba nor decision_function; "
            "calibrate it first, e.g. sklearn.calibration.CalibratedClassifierCV"
        )
    width, names = fitted_columns(estimator)
    return Converted(
        source=estimator,
        call=call,
        outputs=kind,
        task=task,
        classes=np.asarray(estimator.classes_) if task == "classification" else None,
        decide=estimator.predict,
        n_features=width,
        feature_names=names,
        weight_decay={},
        refit=Refit(estimator) if hasattr(estimator, "get_params") else None,
    )


class PositiveColumns:
    """Reads P(label = 1) from the list of (n, 2) that multi-output classifiers return."""

    def __init__(self, estimator: Any) -> None:
        for classes in estimator.classes_:
            if not set(np.asarray(classes).tolist()) <= {0, 1}:
                raise TypeError(
                    f"{type(estimator).__name__} has several outputs with classes "
                    f"{[list(c) for c in estimator.classes_][:3]}; only 0/1 labels are supported: "
                    "wrap a classifier of one output"
                )
        self.estimator = estimator

    def __call__(self, X: Any) -> NDArray[Any]:
        """Return probabilities (n, labels)."""
        parts = self.estimator.predict_proba(X)
        columns = [
            part[:, list(classes).index(1)] if 1 in classes else np.zeros(len(part))
            for part, classes in zip(parts, self.estimator.classes_, strict=True)
        ]
        return np.column_stack(columns)


@dataclass(frozen=True)
class Refit:
    """(X, y, n) -> a fitted clone; what regularises it is its own affair."""

    estimator: Any

    def __call__(self, X: Any, y: Any, n: int) -> Any:
        """Return the estimator fitted on these rows."""
        from sklearn.base import clone

        return clone(self.estimator).fit(X, y)


@dataclass(frozen=True)
class Forward:
    """A module without parameters, in eval mode."""

    module: nn.Module

    def __call__(self, X: Any) -> Tensor:
        """Return its outputs."""
        with torch.no_grad(), evaluating(self.module):
            return forward(self.module, X)


def convert_callable(function: Any, task: Task | None) -> Converted:
    """Serve a callable X -> outputs; a module without parameters is one too.

    Parameters
    ----------
    function : callable
        Gets X as the user gives it; a module gets tensors, in eval mode.
    task : str or None
        What the outputs are for. Whether they are logits or probabilities shows in the first
        call: rows that sum to one are probabilities.

    Returns
    -------
    Converted
    """
    is_module = isinstance(function, nn.Module)
    return Converted(
        source=function,
        call=Forward(function) if is_module else function,
        outputs="values" if task == "regression" else None,
        task=task,
        weight_decay={},
        wants_tensors=is_module,
    )
