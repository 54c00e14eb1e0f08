"""CV+, without refits."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import read_alphas
from trustml.conformal._leaving_out import leaving_out
from trustml.conformal._plus_interval import chunks, plus_interval, warn_if_too_few
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_positive_int, restore
from trustml.model import as_model


class CvPlusRegressor(BaseEstimator):
    """Intervals from held-out folds: the jackknife+ with K models instead of n.

    Coverage is at least 1 - 2 alpha - sqrt(2 / n) for any data, and 1 - alpha in practice.
    Without refits the K models are Newton steps of the curvature engine
    (`InfluenceFunctions.remove`): exact for least squares and ridge, close for smooth models when
    a fold is a small share of the rows.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output that was wrapped with ``train=``.
    folds : int
        Number of folds, at least 2.
    refit : bool
        True trains the K models (``Model.retrain``).
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
        refit: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.folds = folds
        self.refit = refit
        self.random_state = random_state

    def fit(self) -> Self:
        """Find the held-out residuals of the model's training rows.

        Returns
        -------
        CvPlusRegressor
            Itself.

        Raises
        ------
        ValueError
            If there are fewer than 2 folds, or fewer rows than folds.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped: the intervals may then be too narrow.
        """
        model = as_model(self.model)
        check_regressor(model, "CvPlusRegressor")
        model.require_train("CvPlusRegressor")
        train: Data = model.train  # type: ignore[assignment]
        y, n = measured(model, train.targets), len(train)
        if not 2 <= check_positive_int(self.folds, "folds") <= n:
            raise ValueError(f"folds must be from 2 to the {n} training rows, got {self.folds}")
        fold = numpy_generator(self.random_state).permutation(np.arange(n) % self.folds)
        influence = None if self.refit else leaving_out(model, "CvPlusRegressor")
        self.models_, left_out = [], np.empty(n)
        for k in track(range(self.folds), "CV+: folds", self.folds):
            out = np.flatnonzero(fold == k)
            if influence is None:
                without = model.retrain(np.flatnonzero(fold != k))
            else:
                without = influence.remove(out)
            left_out[out] = predicted(without, train.subset(out))
            self.models_.append(without)
        self.model_, self.fold_, self.residuals_ = model, fold, np.abs(y - left_out)
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of them
            Allowed error rate: coverage is near 1 - alpha.

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
        centres = np.stack([predicted(m, X) for m in self.models_], axis=1)
        ends = np.concatenate(
            [
                plus_interval(centres[rows][:, self.fold_], self.residuals_, alphas)
                for rows in chunks(len(centres), len(self.fold_))
            ]
        )
        return restore(ends[:, :, 0] if single else ends, X)
