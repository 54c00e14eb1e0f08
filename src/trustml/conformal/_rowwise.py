"""Split conformal predictors whose threshold is each row's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._regression import as_regressor, measured
from trustml.conformal._residual_score import as_residual_score
from trustml.conformal._score import as_score
from trustml.conformal._scored import all_scores, calibrated
from trustml.conformal._split_regressor import ResidualBand
from trustml.core.validation import restore
from trustml.evidence import read_alphas
from trustml.model import Model, as_model


class RowwiseClassifier(BaseEstimator, ABC):
    """Sets of the labels whose score is at most the row's threshold.

    A subclass takes ``model``, ``score`` and ``random_state`` beside its own parameters.
    """

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Score the calibration rows; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their labels, as the model knows them; one a row, or a ValueError says so.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        TypeError
            If the model is no classifier, or a parameter is of the wrong kind.
        """
        model, score = as_model(self.model), as_score(self.score)
        if model.task != "classification":
            raise TypeError(
                f"{type(self).__name__} needs a classifier, got a model for {model.task}; for "
                f"regression use {type(self).__name__.replace('Classifier', 'Regressor')}"
            )
        rows = calibrated(model, score, X_cal, y_cal, self.random_state)
        self._calibrate(model, rows.of(X_cal), rows.labels, rows.scores)
        self.model_, self.score_, self.seed_ = model, rows.score, rows.seed
        self.classes_, self.n_calibration_ = np.asarray(model.classes_), len(rows.kept)
        return self

    def predict_set(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return which labels are in each row's set.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate.

        Returns
        -------
        bool array of shape (n, c), or (n, c, m) for a list
            Columns in the order of ``classes_``; a row may be empty.

        Warns
        -----
        CoverageWarning
            If calibration rows do not suffice for some rows; their sets are full.
        """
        check_is_fitted(self, "model_")
        alphas, single = read_alphas(alpha)
        scores = all_scores(self.model_, self.score_, X, self.seed_)
        sets = scores[:, :, None] <= self._limits(X, len(scores), alphas)
        return restore(sets[:, :, 0] if single else sets, X)

    @abstractmethod
    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        """Learn from scores (n,) of the true classes, whose columns are y."""

    @abstractmethod
    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        """Return thresholds (n or 1, c or 1, m)."""


class PValueClassifier(RowwiseClassifier):
    """A rowwise classifier whose sets are those of p-values."""

    def p_values(self, X: Any) -> Any:
        """Return the conformal p-value of every label; the set at alpha is {p > alpha}.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.

        Returns
        -------
        array of shape (n, c)
            In [0, 1]; the true label's is super-uniform under the guarantee above.
        """
        check_is_fitted(self, "model_")
        scores = all_scores(self.model_, self.score_, X, self.seed_)
        return restore(self._p_values(X, scores), X)

    @abstractmethod
    def _p_values(self, X: Any, scores: np.ndarray) -> np.ndarray:
        """Return p-values of scores (n, c)."""


class RowwiseRegressor(BaseEstimator, ABC):
    """Intervals of the values whose score is at most the row's threshold.

    A subclass takes ``model`` and ``score`` beside its own parameters.
    """

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Score the calibration rows; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their values.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        ValueError
            If lengths differ, or a parameter has a wrong value.
        """
        model = as_regressor(self.model, type(self).__name__)
        self._bands = ResidualBand(model, as_residual_score(self.score).scale(model))
        band, y = self._bands(X_cal), measured(model, y_cal)
        n = len(band.low)
        if len(y) != n:
            raise ValueError(f"X_cal has {n} rows, y_cal has {len(y)}; give one y a row")
        self._calibrate(model, X_cal, y, np.maximum(*band.scores(y)))
        self.model_, self.n_calibration_ = model, n
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate.

        Returns
        -------
        array of shape (n, 2), or (n, 2, m) for a list
            Low and high, in the unit of y; infinite where calibration rows do not suffice.

        Warns
        -----
        CoverageWarning
            If calibration rows do not suffice for some rows.
        """
        check_is_fitted(self, "model_")
        alphas, single = read_alphas(alpha)
        band = self._bands(X)
        limits = self._limits(X, len(band.low), alphas)[:, 0]
        ends = band.moved(limits, limits)
        return restore(ends[:, :, 0] if single else ends, X)

    @abstractmethod
    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        """Learn from scores (n,)."""

    @abstractmethod
    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        """Return thresholds (n, 1, m)."""
