"""Which training rows an attribution is owed to."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int, restore
from trustml.explain._explainer import Explainer, names_of
from trustml.explain._parameters import attribution_gradients, differentiable, engine
from trustml.influence import InfluenceFunctions
from trustml.model import as_model


def caused_by(
    explainer: Explainer,
    X: Any,
    target: Any = None,
    *,
    feature: int | str | tuple[int, ...] | None = None,
    top_k: int | None = None,
    y: Any = None,
    correction: Literal["auto", "leverage", "none"] = "leverage",
    influence: InfluenceFunctions | None = None,
) -> Any:
    """Return the change of an attribution if each training row were left out.

    Positive: without the row the attribution would be larger.

    Parameters
    ----------
    explainer : IntegratedGradients, InputXGradient or Saliency
        Its model needs ``train``.
    X, target, y
        As for ``explainer.attribute``; a model with several outputs needs a ``target``.
    feature : int, str, tuple of int, or None
        The feature: its index in the flattened row, its name, or its place in the row. None: the
        sum of each row's ``top_k`` largest attributions by size.
    top_k : int or None
        How many, if ``feature`` is None.
    correction : {"leverage", "auto", "none"}
        "leverage": one Newton step without the row; exact for ridge.
    influence : InfluenceFunctions or None
        Fitted ones of the same model, to share their factorisation; their correction counts.

    Returns
    -------
    array or Tensor of shape (n, n_train)
        In the unit of the attributions.

    Raises
    ------
    ValueError
        If the feature does not exist, or a target is needed.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml import wrap
    >>> from trustml.explain import IntegratedGradients
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X, y), train=(X, y))
    >>> caused_by(IntegratedGradients(model), X[:2], feature=2).shape
    (2, 442)
    """
    explained = differentiable(explainer, "explain.caused_by")
    if (feature is None) == (top_k is None):
        raise ValueError("give feature= (an index or a name), or top_k= for the largest ones")
    model, rows, question = explained.prepare(X, target, y)
    if question.names is not None:
        raise ValueError(f"the model has {len(question.names)} outputs: say which with target=")
    place = None if feature is None else _place(feature, names_of(model, X, rows.shape[1:]), rows)
    most = 0 if top_k is None else min(check_positive_int(top_k, "top_k"), rows[0].numel())

    def read(values: Tensor) -> Tensor:
        flat = values.reshape(-1)
        if place is not None:
            return flat[place : place + 1]
        return flat[flat.detach().abs().topk(most).indices].sum()[None]

    fitted = engine(as_model(explainer.model), correction, influence)
    gradients = list(attribution_gradients(explained, X, target, y, fitted.objective_, read))
    return restore(fitted.rows_effect(torch.cat(gradients).T), X)


def _place(feature: Any, names: list[str], rows: Tensor) -> int:
    """Return the index of a feature in the flattened row."""
    shape = tuple(rows.shape[1:])
    if isinstance(feature, str):
        if feature not in names:
            raise ValueError(f"there is no feature {feature!r}; names are {names[:20]}")
        return names.index(feature)
    if isinstance(feature, tuple):
        if len(feature) != len(shape) or any(
            not 0 <= i < k for i, k in zip(feature, shape, strict=False)
        ):
            raise ValueError(f"feature {feature} is outside a row of shape {shape}")
        return int(torch.arange(len(names)).reshape(shape)[feature])
    if isinstance(feature, bool) or not 0 <= int(feature) < len(names):
        raise ValueError(f"feature must be an index in 0..{len(names) - 1}, got {feature!r}")
    return int(feature)
