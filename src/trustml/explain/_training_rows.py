"""A prediction explained by the training rows behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import Result
from trustml.core.validation import check_positive_int, to_numpy
from trustml.explain._parameters import engine
from trustml.influence import Certificate, InfluenceFunctions
from trustml.model import as_model


@dataclass(frozen=True, eq=False, repr=False)
class TrainingRows(Result):
    """The training rows that speak most for and against each prediction.

    Attributes
    ----------
    helpful, harmful : int array of shape (n, k)
        Positions in the training data, strongest first.
    helpful_effect, harmful_effect : float array of shape (n, k)
        Predicted change of the row's loss if that training row were left out: positive for
        helpful rows. A row listed as harmful has no positive effect unless all have.
    labels : array of shape (n,)
        The answers whose loss is meant: ``y``, or the predictions.
    effects : float array of shape (n, n_train)
        Of all training rows.
    unit : str
        Of the effects.
    correction : str
        "leverage" or "none".
    certificate : Certificate
        How far the solves can be trusted.
    """

    helpful: np.ndarray
    harmful: np.ndarray
    helpful_effect: np.ndarray
    harmful_effect: np.ndarray
    labels: np.ndarray
    effects: np.ndarray
    unit: str
    correction: str | None
    certificate: Certificate | None

    def _title(self) -> str:
        """Return what the effects are."""
        n, n_train = self.effects.shape
        return (
            f"TrainingRows of {n} rows among {n_train}: change of the row's loss ({self.unit}) if "
            f"the training row were left out, correction {self.correction}"
        )

    def _columns(self) -> dict[str, Any]:
        n, k = self.helpful.shape
        both = np.concatenate([self.helpful, self.harmful], axis=1)
        effect = np.concatenate([self.helpful_effect, self.harmful_effect], axis=1)
        side = np.repeat(np.array(["helpful", "harmful"], dtype=object), k)
        return {
            "row": np.repeat(np.arange(n), 2 * k),
            "training_row": both.reshape(-1),
            "kind": np.tile(side, n),
            "effect": effect.reshape(-1),
        }


def training_rows(
    model: Any,
    X: Any,
    y: Any = None,
    k: int = 5,
    *,
    influence: InfluenceFunctions | None = None,
) -> TrainingRows:
    """Return the training rows that help and harm each prediction most.

    Parameters
    ----------
    model : Model
        With its training data, and gradients.
    X : array-like of shape (n, *features)
        Rows whose predictions are explained.
    y : array-like of shape (n,) or None
        The answers to ask about; None asks what supports the model's own predictions.
    k : int
        How many of each kind.
    influence : InfluenceFunctions or None
        Fitted ones of the same model, to share their factorisation.

    Returns
    -------
    TrainingRows

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
    >>> found = training_rows(model, X[:1], k=3)
    >>> y[found.helpful].tolist()
    [[0, 0, 0]]
    """
    face = as_model(model)
    face.require_gradients("explain.training_rows")
    face.require_train("explain.training_rows")
    most = check_positive_int(k, "k")
    fitted = engine(face, "auto", influence)
    labels = face.predict(X) if y is None else y
    scores = fitted.scores(X, labels)
    effects = to_numpy(scores.values)
    most = min(most, effects.shape[1])
    order = np.argsort(-effects, axis=1, kind="stable")
    helpful, harmful = order[:, :most], order[:, ::-1][:, :most]
    return TrainingRows(
        helpful=helpful,
        harmful=harmful,
        helpful_effect=np.take_along_axis(effects, helpful, axis=1),
        harmful_effect=np.take_along_axis(effects, harmful, axis=1),
        labels=to_numpy(labels),
        effects=effects,
        unit=scores.unit,
        correction=scores.correction,
        certificate=scores.certificate,
    )
