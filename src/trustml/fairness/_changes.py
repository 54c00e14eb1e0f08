"""What other features or labels of a training row would do to a gap."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.batches import as_data
from trustml.core.validation import to_numpy
from trustml.fairness._validation import Validation
from trustml.influence import InfluenceFunctions


def change_effects(
    influence: InfluenceFunctions, validation: Validation, X: Any, y: Any
) -> np.ndarray:
    r"""Return the effect on each value of putting another row in the place of one training row.

    To first order the parameters move by :math:`-\tfrac1n (H + λI)^{-1} (g_i' - g_i)`, with
    :math:`g_i'` the loss gradient of the new row: the step without row i and the step towards the
    new one. Labels of logistic regression do not enter H, so that for them it is the Newton step.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted.
    validation : Validation
        What is measured.
    X, y : array-like of n_train rows, or None
        New features, new labels; None keeps them.

    Returns
    -------
    numpy.ndarray of shape (k, n_train)

    Raises
    ------
    ValueError
        If neither is given, or there is not one a training row.
    """
    if X is None and y is None:
        raise ValueError("pass X, y or both: what the training rows would be instead")
    model, objective = validation.model, influence.objective_
    data = objective.data
    n = len(data)
    inputs = data.inputs if X is None else model.inputs(X)
    targets = data.targets if y is None else model.targets(y)
    changed = as_data(inputs, targets)
    if len(changed) != n:
        raise ValueError(
            f"X and y must have one row for each of the {n} training rows, got {len(changed)}"
        )
    moves = influence.solve(validation.gradients(objective)).x
    pulls = objective.dot(moves, changed) - objective.dot(moves)
    effects: np.ndarray = -to_numpy(pulls).T.astype(np.float64) / objective.n
    return effects[: len(validation.compared.condition)]
