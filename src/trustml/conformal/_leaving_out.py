"""The influence functions that stand in for models without a row."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Data, as_data
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import CoverageWarning

_SMALL = 1000  # parameters: the dense Hessian of such a model costs little


def leaving_out(
    model: Model,
    what: str,
    curvature: str = "auto",
    damping: float | str = "auto",
    correction: Literal["leverage", "none"] = "leverage",
) -> InfluenceFunctions:
    """Return fitted influence functions, and warn if they are damped.

    Damping holds the leave-one-out models near the fitted one, which has seen the row: their
    residuals shrink, and so do the intervals.

    Parameters
    ----------
    model : Model
        With gradients and training data.
    what : str
        Name of the caller, for errors and the warning.
    curvature, damping : str or float
        As for `InfluenceFunctions`; but "auto" takes the Hessian of a small model that bends, where
        it is positive definite: the Gauss-Newton matrix leaves out what the bend adds.
    correction : {"leverage", "none"}
        "leverage" prepares one Newton step without each row; "none" is enough for blocks.

    Returns
    -------
    InfluenceFunctions

    Raises
    ------
    TypeError
        If the model has no gradients.
    """
    split = "SplitRegressor" if model.task == "regression" else "SplitClassifier"
    if not model.differentiable:
        raise TypeError(
            f"{model!r} has no gradients, so its models without a row cannot be predicted; use "
            f"{what}(model, refit=True), or {split}"
        )

    first = "hessian" if _bends(model, curvature) else curvature
    influence = _fitted(model, first, damping, correction)
    if first != curvature and influence.damping_.value > 0:
        influence = _fitted(model, curvature, damping, correction)
    if influence.damping_.value > 0:
        warnings.warn(
            f"the models without a row are damped (λ = {influence.damping_.value:.2g}: "
            f"{influence.damping_.reason}), so their errors look smaller than they are and the "
            f"coverage may fall short; use {what}(model, refit=True), {split}, or a model "
            "trained to a minimum with weight decay",
            CoverageWarning,
            stacklevel=3,
        )
    return influence


def _fitted(
    model: Model, curvature: str, damping: float | str, correction: Literal["leverage", "none"]
) -> InfluenceFunctions:
    return InfluenceFunctions(model, curvature, damping, correction=correction).fit()


def _bends(model: Model, curvature: str) -> bool:
    """Say whether the Hessian is to be tried."""
    small = model.objective.space.size <= _SMALL
    return curvature == "auto" and small and not is_linear(model)


def is_linear(model: Model) -> bool:
    """Say whether all parameters are those of one last linear layer."""
    names = model.objective.space.names
    return all(name.rpartition(".")[0] == model.head_name for name in names)


def new_rows(model: Model, X: Any) -> Data:
    """Return new rows as the module eats them."""
    if isinstance(X, (Dataset, DataLoader)):
        return as_data(X, prepare=model.inputs)
    return as_data(model.inputs(X))
