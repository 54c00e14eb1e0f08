"""Weighted split conformal prediction."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.conformal._residual_score import ResidualScore
from trustml.conformal._rowwise import PValueClassifier, RowwiseRegressor
from trustml.conformal._score import ScoreFunction
from trustml.conformal._weighted_scores import WeightedScores
from trustml.conformal._weights import Weights, as_weights
from trustml.core.random import RandomState
from trustml.model import Model


class WeightedClassifier(PValueClassifier):
    """Sets of labels for rows that are drawn otherwise than the calibration rows.

    With exact density ratios as weights the true label is in the set with probability at least
    1 - alpha under the new rows' law; with estimated ones, up to the error of the estimate.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier.
    weights : None, Weights or callable X -> (n,)
        A callable gives the ratio of the new rows' density to the calibration rows', up to a
        factor; `CovariateShift` estimates it, `LabelShift` weighs classes, `Decay` recent rows,
        `Localized` near ones. None: all rows alike, as `SplitClassifier` does.
    score : {"lac", "aps", "raps", "saps", "topk", "margin", "entmax", "knn"}, Score or callable
        Strangeness of a class.
    random_state : int, Generator or None
        Seed of randomised scores.

    Attributes
    ----------
    weights_ : Weights
        Fitted on the calibration rows.
    effective_sample_size_ : float
        How many rows of equal weight the calibration rows are worth, (Σw)² / Σw².
    classes_ : array of shape (c,)
        Labels in the order of the columns.

    References
    ----------
    Tibshirani, Barber, Candès and Ramdas (2019), Conformal prediction under covariate shift,
    arXiv:1904.06019.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], size=100)
    >>> labels = probabilities.argmax(1)
    >>> cp = WeightedClassifier(trustml.precomputed("probabilities"), lambda p: p[:, 0])
    >>> cp.fit(probabilities, labels).predict_set(probabilities[:2], alpha=0.1).shape
    (2, 3)
    >>> round(cp.effective_sample_size_)
    72
    """

    def __init__(
        self,
        model: Any,
        weights: Weights | Callable[[Any], Any] | None = None,
        score: str | ScoreFunction = "lac",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.weights = weights
        self.score = score
        self.random_state = random_state

    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        self.weights_ = as_weights(self.weights).fit(model, X, y)
        self.effective_sample_size_ = self.weights_.effective_sample_size_
        self.calibration_ = WeightedScores(scores, self.weights_)

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        return self.calibration_.limits(X, n, alphas)

    def _p_values(self, X: Any, scores: np.ndarray) -> np.ndarray:
        return self.calibration_.p_values(X, scores)


class WeightedRegressor(RowwiseRegressor):
    """Intervals for rows that are drawn otherwise than the calibration rows.

    With exact density ratios as weights the true value is in the interval with probability at
    least 1 - alpha under the new rows' law; with estimated ones, up to the estimate's error.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output.
    weights : None, Weights or callable X -> (n,)
        A callable gives the ratio of the new rows' density to the calibration rows', up to a
        factor; `CovariateShift` estimates it, `Decay` weighs recent rows, `Localized` near ones.
        None: all rows alike, as `SplitRegressor` does.
    score : {"absolute", "normalized"} or ResidualScore
        What is calibrated.

    Attributes
    ----------
    weights_ : Weights
        Fitted on the calibration rows.
    effective_sample_size_ : float
        How many rows of equal weight the calibration rows are worth, (Σw)² / Σw².

    References
    ----------
    Tibshirani, Barber, Candès and Ramdas (2019), Conformal prediction under covariate shift,
    arXiv:1904.06019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 1))
    >>> y = X[:, 0] + rng.normal(size=300) * np.exp(X[:, 0])
    >>> ratio = lambda X: np.exp(X[:, 0])  # new rows are drawn around 1
    >>> cp = WeightedRegressor(Ridge().fit(X[:100], y[:100]), ratio).fit(X[100:], y[100:])
    >>> cp.predict_interval(X[:4] + 1, alpha=0.1).shape
    (4, 2)
    """

    def __init__(
        self,
        model: Any,
        weights: Weights | Callable[[Any], Any] | None = None,
        score: str | ResidualScore = "absolute",
    ) -> None:
        self.model = model
        self.weights = weights
        self.score = score

    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        self.weights_ = as_weights(self.weights).fit(model, X, y)
        self.effective_sample_size_ = self.weights_.effective_sample_size_
        self.calibration_ = WeightedScores(scores, self.weights_)

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        return self.calibration_.limits(X, n, alphas)
