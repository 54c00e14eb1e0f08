"""``wrap``: anything trained becomes a ``Model``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from trustml.core.losses import OutputLoss
from trustml.core.validation import check_choice, check_positive_int
from trustml.model.assembly import Recipe
from trustml.model.bounds import check_bounds
from trustml.model.converted import TASKS
from trustml.model.face import Model
from trustml.model.huggingface import column_names
from trustml.model.training import Training


def wrap(
    estimator: Any,
    task: str | None = None,
    train: Any = None,
    loss: OutputLoss | nn.Module | Callable[..., Any] | None = None,
    weight_decay: float | Mapping[str, float] = 0.0,
    train_fn: Callable[..., Any] | None = None,
    bounds: tuple[Any, Any] | None = None,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    batch_size: int | Literal["auto"] = "auto",
) -> Model:
    r"""Give a trained model the one face that every method of trustml takes.

    Scikit-learn's linear models, generalised linear models, multi-layer perceptrons and pipelines
    that end in one become differentiable float64 modules with the same outputs, their own loss,
    and their own L2 penalty as ``weight_decay``. Other estimators, callables, and modules without
    parameters serve what needs only predictions.

    Parameters
    ----------
    estimator : Module, fitted estimator, transformers model or callable
        A torch module returns logits (or values), one row per input row. A callable maps X to
        logits or probabilities; rows that sum to one are taken for probabilities.
    task : {"classification", "regression", "multilabel", "language-modeling"} or None
        None infers it from the estimator, the loss, or the labels in ``train``.
    train : (X, y), Dataset, unshuffled DataLoader or None
        The rows that the model was trained on; needed by what uses the training objective.
    loss : torch loss, callable (outputs, y) -> (n,), or None
        None is the estimator's own loss or the task's: cross-entropy, or squared error unhalved.
    weight_decay : float or dict of float by parameter name or regex
        The objective is mean loss + Σ weight_decay_k / 2 θ_k². 0 keeps what a scikit-learn
        estimator says of itself, unless ``loss`` replaces its loss.
    train_fn : callable (X, y) -> fitted estimator, or None
        Lets ``retrain`` train anew; gets rows of ``train`` in the kinds that they have there. If
        it takes ``random_state=`` too, ``retrain`` passes its seed on.
    bounds : (low, high) or None
        Valid inputs, scalars or per feature; needed by attacks.
    feature_names, class_names : sequence of str or None
        None takes them from the data frame or the estimator. With string labels,
        ``class_names`` is also the order of the model's outputs.
    device : torch.device, str or None
        None is where the module lives; a module that has to move is copied.
    batch_size : int or "auto"
        Rows per forward pass.

    Returns
    -------
    Model

    Raises
    ------
    TypeError
        If the estimator is none of these, or a ``Model`` already.

    See Also
    --------
    trustml.model.precomputed : A model of stored outputs.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
    >>> model.module
    Sequential(
      (linear): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    if isinstance(estimator, Model):
        raise TypeError("this is a Model already; pass the estimator itself to wrap it anew")
    if task is not None:
        check_choice(task, "task", TASKS)
    if batch_size != "auto":
        check_positive_int(batch_size, "batch_size")
    if train_fn is not None and not callable(train_fn):
        raise TypeError(f"train_fn must be a callable (X, y) -> estimator, got {train_fn!r}")
    names = None if class_names is None else [str(name) for name in class_names]
    recipe = Recipe(
        task=task,  # type: ignore[arg-type]
        loss=loss,
        weight_decay=_checked_decay(weight_decay),
        train_fn=train_fn,
        bounds=check_bounds(bounds),
        feature_names=feature_names,
        class_names=names or column_names(estimator),
        device=device,
        batch_size=batch_size,
    )
    return recipe.build(estimator, None if train is None else Training.of(train))


def as_model(model: Any) -> Model:
    """Return a ``Model`` as it is, and anything else wrapped with the defaults.

    Parameters
    ----------
    model : Model, or anything that ``wrap`` takes
        What is wrapped here has no training data.

    Returns
    -------
    Model
    """
    return model if isinstance(model, Model) else wrap(model)


def _checked_decay(weight_decay: float | Mapping[str, float]) -> float | dict[str, float]:
    values = weight_decay.values() if isinstance(weight_decay, Mapping) else [weight_decay]
    for value in values:
        if not np.isfinite(value) or value < 0:
            raise ValueError(f"weight_decay must be finite and at least 0, got {weight_decay!r}")
    return dict(weight_decay) if isinstance(weight_decay, Mapping) else float(weight_decay)
