"""Effects of training rows on quantities of the validation rows, by shared influence functions."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from trustml.core.validation import to_numpy
from trustml.influence import InfluenceFunctions
from trustml.model import Model


def effects_of(influence: InfluenceFunctions, gradients: Tensor) -> tuple[float, np.ndarray]:
    """Return the worst relative residual of the solves, and the effects (k, n) of all rows."""
    solution = influence.solve(gradients)
    direct = influence.inverse_.method in ("cholesky", "dual")
    if direct or influence.correction_ == "leverage":
        effects = influence.rows_effect(gradients)
    else:  # without leverage; a second solve would cost as much as the first
        objective = influence.objective_
        effects = objective.dot(solution.x).T / objective.n
    return float(solution.relative_residual.max()), to_numpy(effects).astype(np.float64)


def fitted(influence: InfluenceFunctions | None, model: Model) -> InfluenceFunctions:
    """Return influence functions of a model, fitted; the given ones if there are any."""
    if influence is None:
        return InfluenceFunctions(model).fit()
    if not isinstance(influence, InfluenceFunctions):
        raise TypeError(
            f"influence must be an InfluenceFunctions, got {type(influence).__name__}; use "
            "trustml.influence.InfluenceFunctions(model)"
        )
    if not hasattr(influence, "inverse_"):
        influence.fit()
    if influence.model_ is not model:
        raise ValueError("influence was fitted for another model; pass the same wrapped Model")
    return influence
