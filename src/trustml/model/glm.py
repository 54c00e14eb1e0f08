"""Scikit-learn's generalised linear regressors: a linear layer before an inverse link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.losses import OutputLoss, Poisson, SquaredError
from trustml.model.converted import Converted, fitted_columns
from trustml.model.linear import HEAD, Refit, linear_model


def _power(estimator: Any) -> float | None:
    from sklearn.linear_model import GammaRegressor, PoissonRegressor, TweedieRegressor

    if type(estimator) is TweedieRegressor:
        return float(estimator.power)
    return {PoissonRegressor: 1.0, GammaRegressor: 2.0}.get(type(estimator))


def convert(estimator: Any, labels: NDArray[Any] | None) -> Converted | None:
    """Turn a fitted Poisson, Gamma or Tweedie regressor into one linear layer.

    Its objective is mean(half deviance) + α/2 ‖w‖², so weight_decay is α for the Poisson model
    and 2 α for the normal one; other powers give outputs only.

    Parameters
    ----------
    estimator : object
        Anything; only generalised linear regressors are taken.
    labels : ndarray of shape (n,) or None
        Training targets; not used.

    Returns
    -------
    Converted or None
        None if the estimator is not one of these.
    """
    power = _power(estimator)
    if power is None:
        return None
    link = getattr(estimator, "link", "log")
    log_link = link == "log" or (link == "auto" and power > 0)
    loss: OutputLoss | None = None
    decay: dict[str, float] = {}
    if power == 1 and log_link:
        loss, decay = Poisson(), {f"{HEAD}.weight": float(estimator.alpha)}
    elif power == 0 and not log_link:
        loss, decay = SquaredError(), {f"{HEAD}.weight": 2 * float(estimator.alpha)}
    inverse_link: Callable[[Tensor], Tensor] | None = torch.exp if log_link else None
    width, names = fitted_columns(estimator)
    return Converted(
        source=estimator,
        module=linear_model(
            estimator.coef_, estimator.intercept_ if estimator.fit_intercept else None
        ),
        outputs="values",
        task="regression",
        loss=loss,
        weight_decay=decay,
        inverse_link=inverse_link,
        n_features=width,
        feature_names=names,
        head_name=HEAD,
        refit=Refit(estimator, ("alpha",)),
        no_objective=None
        if loss is not None
        else f"the deviance of power {power:g} is not supported",
    )
