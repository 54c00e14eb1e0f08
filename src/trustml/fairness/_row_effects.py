"""Effects of training rows on quantities of the validation rows, by shared influence functions."""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor

from trustml.core.validation import to_numpy
from trustml.ihvp import Damping, choose_damping, on_features
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import TrustmlWarning


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


def damping_of(influence: InfluenceFunctions) -> Damping:
    """Return the damping, with the facts that say whether this model is at a minimum."""
    found: Damping = influence.damping_
    if isinstance(influence.damping, Damping):  # given: its facts may be those of another model
        own = on_features(influence.objective_)
        found = choose_damping(influence.operator_, own, found.value)
    return found


def warn_if_not_at_minimum(influence: InfluenceFunctions, stacklevel: int = 3) -> None:
    """Say where effects are those of a step towards a minimum, not of refits."""
    facts = damping_of(influence)
    if facts.stationary:
        return
    warnings.warn(
        "the model is not at a minimum of its objective on the rows that it was wrapped with "
        f"(‖∇J‖ is {facts.relative_gradient_norm:.1e} of the per-example gradients' size): effects "
        "are those of a step towards one, and refits may differ. Wrap it with the rows, labels and "
        "weight decay that it was trained with, without sample_weight, or train it longer",
        TrustmlWarning,
        stacklevel=stacklevel + 1,
    )
