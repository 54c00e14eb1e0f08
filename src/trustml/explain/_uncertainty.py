"""Standard errors of attributions: how much they owe to the draw of the training rows."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from trustml.core.validation import check_choice, restore
from trustml.explain._explainer import Explainer
from trustml.explain._parameters import attribution_gradients, differentiable, engine
from trustml.influence import InfluenceFunctions
from trustml.model import as_model


def uncertainty(
    explainer: Explainer,
    X: Any,
    target: Any = None,
    *,
    y: Any = None,
    correction: Literal["none", "leverage"] = "none",
    influence: InfluenceFunctions | None = None,
) -> Any:
    r"""Return standard errors of attributions, by the infinitesimal jackknife.

    With :math:`e_i` the predicted change of an attribution if training row i were left out, the
    variance is :math:`\sum_i (e_i - \bar e)^2`: what retraining on other samples of the same
    size would do to the attribution, without retraining. Baselines are held fixed, and so is
    everything that training does not fit (its seed, early stopping).

    Parameters
    ----------
    explainer : IntegratedGradients, InputXGradient or Saliency
        Its model needs ``train``.
    X, target, y
        As for ``explainer.attribute``.
    correction : {"none", "leverage"}
        "none": the infinitesimal jackknife. "leverage": the jackknife,
        :math:`\tfrac{n-1}{n} \sum_i (e_i - \bar e)^2` with leave-one-out steps, which is exact
        for ridge and more careful where single rows weigh much.
    influence : InfluenceFunctions or None
        Fitted ones of the same model, to share their factorisation; their correction counts.

    Returns
    -------
    array or Tensor, like ``explainer.attribute(X, target).values``
        In the unit of the attributions.

    References
    ----------
    Jaeckel (1972), The infinitesimal jackknife. Giordano, Stephenson, Liu, Jordan and Broderick
    (2019), A Swiss army infinitesimal jackknife, arXiv:1806.00550.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml import wrap
    >>> from trustml.explain import IntegratedGradients
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X, y), train=(X, y))
    >>> uncertainty(IntegratedGradients(model), X[:2]).shape
    (2, 10)
    """
    check_choice(correction, "correction", ("none", "leverage"))
    explained = differentiable(explainer, "explain.uncertainty")
    fitted = engine(as_model(explainer.model), correction, influence)
    objective = fitted.objective_
    shapes: list[torch.Size] = []

    def read(values: Tensor) -> Tensor:
        shapes.append(values.shape)
        return values.reshape(-1)

    errors = []
    for gradients in attribution_gradients(explained, X, target, y, objective, read):
        effects = fitted.rows_effect(gradients.T)
        variance = (effects - effects.mean(1, keepdim=True)).square().sum(1)
        if fitted.correction_ == "leverage":
            variance = variance * (effects.shape[1] - 1) / effects.shape[1]
        errors.append(variance.sqrt().reshape(shapes[-1]))
    return restore(torch.stack(errors), X)
