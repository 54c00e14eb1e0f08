"""Intervals from models that have each not seen a training row."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import read_alphas
from trustml.conformal._plus_interval import (
    chunks,
    plus_interval,
    residual_limits,
    warn_if_too_few,
    weighted_plus_interval,
)
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.conformal._scored import length
from trustml.conformal._weighted_scores import WeightedScores
from trustml.core.validation import check_choice, restore
from trustml.model import Model, as_model
from trustml.warnings import CoverageWarning

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
    _weighted: WeightedScores | None = None

    @abstractmethod
    def _held_out(self, X: Any) -> Iterator[np.ndarray]:
        """Yield predictions (b, k) of the next b rows by the k models."""

    def _centre(self, X: Any) -> np.ndarray:
        """Return the predictions (m,) that "base" intervals are centred at."""
        return predicted(self.model_, X)

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
            If there are too few training rows, or too little weight of them, for alpha.
        """
        check_is_fitted(self, "residuals_")
        alphas, single = read_alphas(alpha)
        if self._weighted is None:
            warn_if_too_few(len(self.residuals_), alphas)
            limits = residual_limits(self.residuals_, alphas)[None]
        else:
            limits = self._weighted.limits(X, length(X), alphas)[:, 0]
        if self.method == "base":
            centre = self._centre(X)
            ends = _apart(centre, centre, limits)
        else:
            ends = np.concatenate(list(self._ends(X, limits, alphas)))
        return restore(ends[:, :, 0] if single else ends, X)

    def _ends(self, X: Any, limits: np.ndarray, alphas: list[Fraction]) -> Iterator[np.ndarray]:
        """Yield ends (b, 2, a) of the next rows."""
        done, n = 0, len(self.residuals_)
        own = None
        if self._weighted is not None:  # one weight may stand for all rows
            own = np.broadcast_to(self._weighted.weights.own(X).ravel(), length(X))
        for centres in self._held_out(X):
            for rows in chunks(len(centres), n):
                by_row, places = self._by_row(centres[rows]), done + rows
                if self.method == "minmax":
                    mine = limits[places] if len(limits) > 1 else limits
                    yield _apart(by_row.min(axis=1), by_row.max(axis=1), mine)
                else:
                    yield self._plus(by_row, alphas, own if own is None else own[places])
            done += len(centres)

    def _plus(
        self, centres: np.ndarray, alphas: list[Fraction], own: np.ndarray | None
    ) -> np.ndarray:
        if self._weighted is None or own is None:
            return plus_interval(centres, self.residuals_, alphas)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CoverageWarning)  # the limits have said it
            weights = self._weighted.weights.calibration_
            return weighted_plus_interval(centres, self.residuals_, alphas, weights, own)

    def _checked(self) -> tuple[Model, np.ndarray]:
        """Return the wrapped regressor and the values of its training rows."""
        model, what = as_model(self.model), type(self).__name__
        check_regressor(model, what)
        check_choice(self.method, "method", ("plus", "minmax", "base"))
        model.require_train(what)
        return model, measured(model, model.train.targets)  # type: ignore[union-attr]


def _apart(low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return ends (m, 2, a): low (m,) and high (m,), moved apart by the limits (m or 1, a)."""
    return np.stack([low[:, None] - limits, high[:, None] + limits], axis=1)
