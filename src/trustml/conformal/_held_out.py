"""Intervals from models that have each not seen a training row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import read_alphas
from trustml.conformal._plus_interval import chunks, plus_interval, warn_if_too_few, widened
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.core.validation import check_choice, restore
from trustml.model import Model, as_model

Method = Literal["plus", "minmax", "base"]


class HeldOutRegressor(BaseEstimator, ABC):
    """What jackknife+, CV+ and the jackknife+-after-bootstrap share: from models to intervals.

    A subclass takes ``model`` and ``method``; its ``fit`` sets ``model_`` and ``residuals_``.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    residuals_ : ndarray of shape (n,)
        Absolute residual of each training row by the model that has not seen it.
    """

    model: Any
    method: Method
    model_: Model
    residuals_: np.ndarray

    @abstractmethod
    def _held_out(self, X: Any) -> Iterator[np.ndarray]:
        """Yield predictions (b, k) of the next b rows by the k models."""

    def _by_row(self, centres: np.ndarray) -> np.ndarray:
        """Return predictions (b, n): of the model that has not seen each training row."""
        return centres

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of them
            Allowed error rate.

        Returns
        -------
        array of shape (m, 2), or (m, 2, a) for a list
            Low and high, in the unit of y; infinite where there are too few training rows.

        Warns
        -----
        CoverageWarning
            If there are too few training rows for alpha.
        """
        check_is_fitted(self, "residuals_")
        alphas, single = read_alphas(alpha)
        warn_if_too_few(len(self.residuals_), alphas)
        if self.method == "base":
            centre = predicted(self.model_, X)
            ends = widened(centre, centre, self.residuals_, alphas)
        else:
            ends = np.concatenate([self._ends(centres, alphas) for centres in self._held_out(X)])
        return restore(ends[:, :, 0] if single else ends, X)

    def _ends(self, centres: np.ndarray, alphas: list[Fraction]) -> np.ndarray:
        if self.method == "minmax":
            return widened(centres.min(axis=1), centres.max(axis=1), self.residuals_, alphas)
        n = len(self.residuals_)
        parts = [
            plus_interval(self._by_row(centres[rows]), self.residuals_, alphas)
            for rows in chunks(len(centres), n)
        ]
        return np.concatenate(parts)

    def _checked(self) -> tuple[Model, np.ndarray]:
        """Return the wrapped regressor and the values of its training rows."""
        model, what = as_model(self.model), type(self).__name__
        check_regressor(model, what)
        check_choice(self.method, "method", ("plus", "minmax", "base"))
        model.require_train(what)
        return model, measured(model, model.train.targets)  # type: ignore[union-attr]
