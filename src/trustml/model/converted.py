"""What every converter returns: an estimator as outputs, with or without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trustml.core.losses import OutputLoss

Task = Literal["classification", "regression", "multilabel", "language-modeling"]
Outputs = Literal["logits", "probabilities", "values", "features"]

TASKS: tuple[Task, ...] = ("classification", "regression", "multilabel", "language-modeling")


@dataclass(frozen=True)
class Converted:
    """An estimator in the one form that ``Model`` reads.

    Attributes
    ----------
    source : object
        What the user gave; named in messages.
    module : Module or None
        Differentiable module of the outputs; None for a prediction-only model.
    call : callable or None
        Raw X -> outputs as an array or tensor, for a prediction-only model.
    outputs : str or None
        What the outputs are: "logits", "probabilities", "values" (regression), "features"; None
        if the first call must show it.
    task : str or None
        None if the estimator does not say.
    classes : ndarray of shape (c,) or None
        The labels in column order.
    loss : OutputLoss or None
        The training loss per example; None takes the task's default.
    weight_decay : dict of float, float or None
        L2 term per parameter name; None if it depends on the unknown number of training rows.
    encode : callable or None
        Preprocessing that has no gradient: raw X -> numeric matrix that the module eats.
    decide : callable or None
        Raw X -> labels or values by the estimator's own rule (prediction-only models).
    inverse_link : callable or None
        Regression: raw outputs -> predicted means; None is the identity.
    n_features : int or None
        Width of the raw X.
    feature_names : tuple of str or None
        Column names that the estimator was fitted with.
    head_name : str or None
        Name of the last linear layer in ``module``, if known without a trace.
    refit : callable or None
        (X, y, n) -> fitted estimator; the regulariser stays what it was for n rows.
    no_objective : str or None
        Why the training objective cannot be written as mean loss plus L2 term.
    wants_tensors : bool
        ``call`` takes float tensors instead of X as the user gave it.
    """

    source: Any
    module: nn.Module | None = None
    call: Callable[[Any], Any] | None = None
    outputs: Outputs | None = "logits"
    task: Task | None = None
    classes: NDArray[Any] | None = None
    loss: OutputLoss | None = None
    weight_decay: dict[str, float] | float | None = 0.0
    encode: Callable[[Any], Any] | None = None
    decide: Callable[[Any], Any] | None = None
    inverse_link: Callable[[Tensor], Tensor] | None = None
    n_features: int | None = None
    feature_names: tuple[str, ...] | None = None
    head_name: str | None = None
    refit: Callable[[Any, Any, int], Any] | None = None
    no_objective: str | None = None
    wants_tensors: bool = False


def fitted_columns(estimator: Any) -> tuple[int | None, tuple[str, ...] | None]:
    """Return the width and the column names that a scikit-learn estimator was fitted with."""
    width = getattr(estimator, "n_features_in_", None)
    names = getattr(estimator, "feature_names_in_", None)
    return (
        None if width is None else int(width),
        None if names is None else tuple(str(name) for name in np.asarray(names)),
    )
