"""Ensemble batch prediction intervals."""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import read_alphas
from trustml.conformal._enbpi_ensemble import Ensemble
from trustml.conformal._plus_interval import warn_if_too_few
from trustml.core.random import RandomState
from trustml.core.validation import restore
from trustml.evidence import conformal_rank


class EnbPi(BaseEstimator):
    """Intervals for time series from a bootstrap ensemble, without calibration rows.

    Each training row is predicted by the models that did not draw it; the residuals, of which
    the oldest leave as new ones come in by `update`, give the width. For a stationary series with
    strongly mixing errors the coverage tends to 1 - alpha; for exchangeable rows it is near
    1 - alpha with any number of them, as the rank is ceil((n + 1)(1 - alpha)).

    Without refits the models are Newton steps of the curvature engine away from the rows that
    they did not draw: exact for least squares and ridge.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output, wrapped with ``train=`` in order of time.
    n_models : int
        Bootstrap models.
    block : int
        Consecutive rows that are drawn together; more than 1 keeps dependent rows together.
    symmetric : bool
        True takes the quantile of absolute residuals. False takes the shortest interval between
        order statistics of signed residuals, for skewed errors.
    refit : bool
        True trains the models (``Model.retrain``).
    random_state : int, Generator or None
        Seed of the draws.

    Attributes
    ----------
    ensemble_ : Ensemble
        The models and what each has seen.
    residuals_ : deque of float
        The last n residuals, y minus prediction, oldest first.

    References
    ----------
    Xu and Xie (2021), Conformal prediction interval for dynamic time-series, arXiv:2010.09107,
    algorithm 1; the shortest interval is that of the journal version.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import Ridge
    >>> y = np.sin(np.arange(121) / 5) + np.random.default_rng(0).normal(scale=0.1, size=121)
    >>> X, y = np.stack([y[1:-1], y[:-2]], axis=1), y[2:]
    >>> model = trustml.wrap(Ridge(0.1).fit(X[:100], y[:100]), train=(X[:100], y[:100]))
    >>> cp = EnbPi(model, random_state=0).fit()
    >>> cp.update(X[100], y[100]).predict_interval(X[101:104], alpha=0.1).shape
    (3, 2)
    """

    def __init__(
        self,
        model: Any,
        n_models: int = 30,
        block: int = 1,
        symmetric: bool = True,
        refit: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.n_models = n_models
        self.block = block
        self.symmetric = symmetric
        self.refit = refit
        self.random_state = random_state

    def fit(self) -> Self:
        """Train or derive the ensemble, and find its leave-one-out residuals.

        Returns
        -------
        EnbPi
            Itself.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped: the intervals may then be too narrow.
        """
        self.ensemble_ = Ensemble(
            self.model, "EnbPi", self.n_models, self.block, self.refit, self.random_state
        )
        residuals = self.ensemble_.residuals
        self.residuals_: deque[float] = deque(residuals.tolist(), maxlen=len(residuals))
        return self

    def update(self, x: Any, y: Any) -> Self:
        """Let the residuals of new rows push out the oldest.

        Parameters
        ----------
        x : array of shape (k, ...), or one row
            The rows in order of time, or one row without the first axis if ``y`` is a number.
        y : array of shape (k,), or number
            Their values.

        Returns
        -------
        EnbPi
            Itself.
        """
        check_is_fitted(self, "ensemble_")
        self.residuals_.extend(self.ensemble_.new_residuals(x, y).tolist())
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval, around the ensemble's prediction.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of them
            Allowed error rate.

        Returns
        -------
        array of shape (m, 2), or (m, 2, a) for a list
            Low and high, in the unit of y; infinite where there are too few residuals.

        Warns
        -----
        CoverageWarning
            If there are too few residuals for alpha.
        """
        check_is_fitted(self, "ensemble_")
        alphas, single = read_alphas(alpha)
        residuals = np.array(self.residuals_)
        warn_if_too_few(len(residuals), alphas)
        around = _symmetric if self.symmetric else _shortest
        offsets = np.array([around(residuals, a) for a in alphas]).T
        ends = self.ensemble_.predict(X)[:, None, None] + offsets
        return restore(ends[:, :, 0] if single else ends, X)


def _symmetric(residuals: np.ndarray, alpha: Fraction) -> tuple[float, float]:
    rank = conformal_rank(len(residuals), alpha)
    if rank > len(residuals):
        return -math.inf, math.inf
    half = float(np.partition(np.abs(residuals), rank - 1)[rank - 1])
    return -half, half


def _shortest(residuals: np.ndarray, alpha: Fraction) -> tuple[float, float]:
    """Narrowest pair of order statistics that are ceil((n + 1)(1 - alpha)) ranks apart."""
    rank = conformal_rank(len(residuals), alpha)
    if rank > len(residuals):
        return -math.inf, math.inf
    # The ranks 0 and n + 1 are infinite: with few residuals one end is.
    ends = np.concatenate([[-math.inf], np.sort(residuals), [math.inf]])
    low, high = ends[:-rank], ends[rank:]
    best = int(np.argmin(high - low))
    return float(low[best]), float(high[best])
