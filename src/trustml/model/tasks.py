"""What a model is for, inferred from its estimator, its loss or its training labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trustml.core.losses import BinaryCrossEntropy, CrossEntropy, OutputLoss, Poisson, SquaredError
from trustml.core.validation import check_choice
from trustml.model.converted import TASKS, Task

_BY_LOSS: tuple[tuple[tuple[type, ...], Task], ...] = (
    (
        (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, CrossEntropy),
        "classification",
    ),
    ((nn.MultiLabelSoftMarginLoss, nn.MultiLabelMarginLoss), "multilabel"),
    (
        (
            nn.MSELoss,
            nn.L1Loss,
            nn.SmoothL1Loss,
            nn.HuberLoss,
            nn.PoissonNLLLoss,
            nn.GaussianNLLLoss,
            SquaredError,
            Poisson,
        ),
        "regression",
    ),
)
_BINARY = (nn.BCEWithLogitsLoss, nn.BCELoss, BinaryCrossEntropy)
_ASK = "say what the model is for: wrap(..., task=...) with one of " + ", ".join(
    repr(task) for task in TASKS
)


def infer_task(
    given: str | None,
    converted: Task | None,
    loss: OutputLoss | nn.Module | Any,
    labels: NDArray[Any] | None,
    n_outputs: int | None,
) -> Task:
    """Return the task, or raise an error that asks for it.

    Parameters
    ----------
    given : str or None
        What the user said; it wins.
    converted : str or None
        What the estimator says.
    loss : object or None
        A torch loss or one of ours settles most cases.
    labels : ndarray of shape (n, ...) or None
        Training labels.
    n_outputs : int or None
        Outputs of the model per row, if known.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If ``given`` is unknown or contradicts the estimator, or nothing settles the task.
    """
    if given is not None:
        check_choice(given, "task", TASKS)
        if converted is not None and given != converted:
            raise ValueError(f"task={given!r}, but the estimator is for {converted}; omit task")
        return given  # type: ignore[return-value]
    if converted is not None:
        return converted
    for types, task in _BY_LOSS:
        if isinstance(loss, types):
            return task
    if isinstance(loss, _BINARY):
        return "multilabel" if n_outputs is not None and n_outputs > 1 else "classification"
    if labels is None:
        raise ValueError(f"the task cannot be inferred without train=(X, y); {_ASK}")
    return _from_labels(labels, n_outputs)


def _from_labels(labels: NDArray[Any], n_outputs: int | None) -> Task:
    """Infer the task from training labels where they leave one reading only."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    kind = labels.dtype.kind
    whole = kind != "f" or bool((labels == np.round(labels)).all())
    if kind == "f" and not whole:
        return "regression"
    if kind in "US":
        if labels.ndim == 1:
            return "classification"
    elif labels.ndim == 2:
        binary = bool(np.isin(labels, (0, 1)).all())
        if kind in "biu" and binary and n_outputs in (None, labels.shape[1]):
            return "multilabel"
    elif kind in "biu":
        distinct = len(np.unique(labels))
        if n_outputs == 1:
            return "classification" if distinct <= 2 else "regression"
        if n_outputs is None or distinct <= n_outputs:
            return "classification"
    raise ValueError(
        f"y of dtype {labels.dtype} and shape {labels.shape} with {n_outputs} outputs could mean "
        f"more than one task; {_ASK}"
    )


def infer_classes(
    labels: NDArray[Any] | None, n_outputs: int | None, class_names: list[str] | None
) -> NDArray[Any] | None:
    """Return the labels in column order for a classifier that does not say them itself.

    Parameters
    ----------
    labels : ndarray of shape (n,) or None
        Training labels.
    n_outputs : int or None
        Outputs per row; one output means two classes.
    class_names : list of str or None
        Names in column order.

    Returns
    -------
    ndarray or None
        None while neither labels nor outputs are known.

    Raises
    ------
    ValueError
        If the labels do not fit the outputs.
    """
    n_classes = None if n_outputs is None else max(n_outputs, 2)
    if class_names is not None and n_classes is not None and len(class_names) != n_classes:
        raise ValueError(f"{len(class_names)} class_names for a model of {n_classes} classes")
    if labels is None:
        return None if n_classes is None else np.arange(n_classes)
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(
            f"train holds one class only ({found.tolist()}); a classifier needs rows of at least "
            "two classes, or task='regression' was meant"
        )
    if found.dtype.kind in "US" and class_names is not None and set(found) <= set(class_names):
        return np.array(class_names)
    if found.dtype.kind == "b":
        return np.array([False, True]) if n_classes in (None, 2) else _unfit(found, n_classes)
    if found.dtype.kind == "f":
        found = found.astype(np.int64) if (found == np.round(found)).all() else found
    indices = found.dtype.kind in "iu" and int(found[0]) >= 0
    if indices and n_classes is not None and int(found[-1]) < n_classes:
        return np.arange(n_classes)
    if n_classes is None or len(found) == n_classes:
        return found
    return _unfit(found, n_classes)


def _unfit(found: NDArray[Any], n_classes: int) -> NDArray[Any]:
    raise ValueError(
        f"train has {len(found)} distinct labels ({found[:10].tolist()}), but the model has "
        f"{n_classes} classes; number them 0 .. {n_classes - 1}, or pass class_names in the order "
        "of the model's outputs"
    )
