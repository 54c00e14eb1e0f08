"""CV+, without refits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._folds import drawn_folds, fold_models
from trustml.conformal._held_out import HeldOutRegressor, Method
from trustml.conformal._held_out_diagnosis import HeldOutDiagnosis, diagnosed
from trustml.conformal._regression import predicted
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.core.batches import Data
from trustml.core.random import RandomState


class CvPlusRegressor(HeldOutRegressor):
    """Intervals from held-out folds: the jackknife+ with K models instead of n.

    Coverage is at least 1 - 2 alpha - sqrt(2 / n) for any data, and 1 - alpha in practice;
    ``method="minmax"`` has at least 1 - alpha. Without refits the K models are Newton steps of
    the curvature engine, which takes a block of rows out of its factorised matrix by Woodbury's
    identity (`InfluenceFunctions.remove`): exact for least squares and ridge, close for smooth
    models when a fold is a small share of the rows.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output that was wrapped with ``train=``.
    folds : int
        Number of folds, from 2 to n; the sizes differ by one row at most.
    method : {"plus", "minmax", "base"}
        As for `JackknifePlusRegressor`.
    refit : bool
        True trains the K models (``Model.retrain``).
    curvature, damping : str or float
        As for `JackknifePlusRegressor`; without refits only.
    random_state : int, Generator or None
        Which row goes to which fold.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    models_ : list of Model
        The model without each fold.
    fold_ : ndarray of shape (n,)
        Fold of each training row.
    residuals_ : ndarray of shape (n,)
        Absolute held-out residuals of the training rows, in the unit of y.

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
    >>> CvPlusRegressor(model, folds=5).fit().predict_interval(X[:4], alpha=0.1).shape
    (4, 2)
    """

    def __init__(
        self,
        model: Any,
        folds: int = 10,
        method: Method = "plus",
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.folds = folds
        self.method = method
        self.refit = refit
        self.curvature = curvature
        self.damping = damping
        self.random_state = random_state

    def fit(self) -> Self:
        """Find the held-out residuals of the model's training rows.

        Returns
        -------
        CvPlusRegressor
            Itself.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped: the intervals may then be too narrow. If a
            transformer of a pipeline has learnt from the training rows and is held.
        """
        model, y = self._checked()
        warn_if_asymmetric(model, "CvPlusRegressor", self.refit)
        train: Data = model.train  # type: ignore[assignment]
        self.fold_ = drawn_folds(self.folds, len(y), self.random_state)
        self.models_ = fold_models(
            model, "CvPlusRegressor", self.fold_, self.refit, self.curvature, self.damping
        )
        left_out = np.empty(len(y))
        for k, without in enumerate(self.models_):
            out = np.flatnonzero(self.fold_ == k)
            left_out[out] = predicted(without, train.subset(out))
        self.model_, self.residuals_ = model, np.abs(y - left_out)
        return self

    def diagnose(self, n_points: int = 3) -> HeldOutDiagnosis:
        """Train anew without a few folds and compare their rows' residuals.

        Parameters
        ----------
        n_points : int
            How many folds are looked at; one refit each.

        Returns
        -------
        HeldOutDiagnosis
        """
        check_is_fitted(self, "residuals_")
        folds = [np.flatnonzero(self.fold_ == k) for k in range(self.folds)]
        return diagnosed(self.model_, folds, self.residuals_, n_points)

    def _held_out(self, X: Any) -> Iterator[np.ndarray]:
        yield np.stack([predicted(m, X) for m in self.models_], axis=1)

    def _by_row(self, centres: np.ndarray) -> np.ndarray:
        return centres[:, self.fold_]
