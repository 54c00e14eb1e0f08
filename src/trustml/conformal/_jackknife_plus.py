"""The jackknife+, without refits."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.conformal._calibration import read_alphas
from trustml.conformal._leaving_out import leaving_out, new_rows
from trustml.conformal._plus_interval import chunks, plus_interval, warn_if_too_few
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.validation import restore, to_numpy
from trustml.model import Model, as_model


class JackknifePlusRegressor(BaseEstimator):
    """Intervals from leave-one-out predictions: every training row also calibrates.

    Coverage is at least 1 - 2 alpha for any data and any symmetric training, and 1 - alpha in
    practice. Without refits the n leave-one-out models come from the curvature engine by one
    leverage-corrected step each: exact for least squares and ridge, close for smooth models. A
    model's nonlinear outputs are followed to first order in the parameters.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output that was wrapped with ``train=``.
    refit : bool
        True trains n models (``Model.retrain``): the reference, also for models without
        gradients.
    curvature, damping : str or float
        For `trustml.influence.InfluenceFunctions`; without refits only. "auto" damps only where
        the curvature is not positive definite or the model is not at a minimum.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    residuals_ : ndarray of shape (n,)
        Absolute leave-one-out residuals of the training rows, in the unit of y.
    influence_ : InfluenceFunctions
        What predicted the leave-one-out models; without refits only. Its solves carry their
        certificates.
    models_ : list of Model
        The n refitted models; with ``refit=True`` only.

    References
    ----------
    Barber, Candès, Ramdas and Tibshirani (2021), Predictive inference with the jackknife+,
    arXiv:1905.02928.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 3))
    >>> y = X.sum(1) + rng.normal(size=50)
    >>> model = trustml.wrap(Ridge().fit(X, y), train=(X, y))
    >>> JackknifePlusRegressor(model).fit().predict_interval(X[:4], alpha=0.1).shape
    (4, 2)
    """

    def __init__(
        self,
        model: Any,
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
    ) -> None:
        self.model = model
        self.refit = refit
        self.curvature = curvature
        self.damping = damping

    def fit(self) -> Self:
        """Find the leave-one-out residuals of the model's training rows.

        Returns
        -------
        JackknifePlusRegressor
            Itself.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped: the intervals may then be too narrow.
        """
        model = as_model(self.model)
        check_regressor(model, "JackknifePlusRegressor")
        model.require_train("JackknifePlusRegressor")
        train: Data = model.train  # type: ignore[assignment]
        y, n = measured(model, train.targets), len(predicted(model, train))
        self.model_ = model
        if self.refit:
            rows = np.arange(n)
            self.models_ = [
                model.retrain(np.delete(rows, i)) for i in track(rows, "jackknife+: refits", n)
            ]
            left_out = np.array(
                [predicted(m, train.subset([i]))[0] for i, m in enumerate(self.models_)]
            )
        else:
            self.influence_ = leaving_out(
                model, "JackknifePlusRegressor", self.curvature, self.damping
            )
            left_out = _values(model, self.influence_.leave_one_out_outputs())
        self.residuals_ = np.abs(y - left_out)
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of them
            Allowed error rate: coverage is near 1 - alpha, never below 1 - 2 alpha.

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
        if self.refit:
            centres = np.stack([predicted(m, X) for m in self.models_], axis=1)
            ends = plus_interval(centres, self.residuals_, alphas)
        else:
            data = new_rows(self.model_, X)
            width = max(len(self.residuals_), self.model_.objective.space.size)
            ends = np.concatenate(
                [
                    plus_interval(self._without(data.subset(rows)), self.residuals_, alphas)
                    for rows in chunks(len(data), width)
                ]
            )
        return restore(ends[:, :, 0] if single else ends, X)

    def _without(self, rows: Data) -> np.ndarray:
        """Return predictions (b, n): outputs plus their change when each row is left out."""
        outputs = self.model_.observe(rows).outputs.reshape(len(rows), 1)
        jacobian = self.model_.objective.rows(rows, _ones)
        moved = outputs + self.influence_.rows_effect(jacobian.T)
        return _values(self.model_, moved.reshape(-1, 1)).reshape(len(rows), -1)


def _values(model: Model, outputs: Tensor) -> np.ndarray:
    """Return predicted means (n,) of raw outputs, in float64."""
    means: np.ndarray = to_numpy(model.values_of(outputs)).astype(np.float64).reshape(-1)
    return means


def _ones(outputs: Tensor, inputs: Any, targets: Tensor | None) -> Tensor:
    return torch.ones_like(outputs)
