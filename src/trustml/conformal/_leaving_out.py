"""The influence functions that stand in for models without a row."""

from __future__ import annotations

import warnings
from typing import Any

from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Data, as_data
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import CoverageWarning


def leaving_out(
    model: Model, what: str, curvature: str = "auto", damping: float | str = "auto"
) -> InfluenceFunctions:
    """Return fitted, leverage-corrected influence functions, and warn if they are damped.

    Damping holds the leave-one-out models near the fitted one, which has seen the row: their
    residuals shrink, and so do the intervals.

    Parameters
    ----------
    model : Model
        With gradients and training data.
    what : str
        Name of the caller, for errors and the warning.
    curvature, damping : str or float
        As for `InfluenceFunctions`.

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

    influence = InfluenceFunctions(
        model, curvature=curvature, damping=damping, correction="leverage"
    ).fit()
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


def new_rows(model: Model, X: Any) -> Data:
    """Return new rows as the module eats them."""
    if isinstance(X, (Dataset, DataLoader)):
        return as_data(X, prepare=model.inputs)
    return as_data(model.inputs(X))
