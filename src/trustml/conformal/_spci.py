"""Sequential predictive conformal inference."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import read_alphas
from trustml.conformal._enbpi_ensemble import Ensemble
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, check_positive_int, restore

_SHIFTS = 11  # ways of splitting alpha between the tails that `shortest` tries
_LEAF = 10  # residuals in a leaf of the forest


class Spci(BaseEstimator):
    """Intervals for time series that foresee the next residual from the last ones.

    As `EnbPi`, but the quantiles of the next residual are regressed on the ``lags`` residuals
    before it, by a quantile regression forest or linear quantile regression: where residuals
    follow each other the intervals move and shrink. Coverage tends to 1 - alpha as the quantile
    estimates do; there is no promise at finite n.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output, wrapped with ``train=`` in order of time.
    lags : int
        Residuals that the next one is regressed on.
    quantiles : {"forest", "linear"}
        How.
    shortest : bool
        False leaves alpha / 2 to each tail; True splits alpha so that the interval is shortest.
    n_models, block, refit
        The ensemble, as for `EnbPi`.
    random_state : int, Generator or None
        Seed of the draws and of the forest.

    Attributes
    ----------
    ensemble_ : Ensemble
        The models and what each has seen.
    residuals_ : list of float
        Residuals so far, y minus prediction, in order of time.

    References
    ----------
    Xu and Xie (2023), Sequential predictive conformal inference for time series,
    arXiv:2212.03463, algorithm 1. Meinshausen (2006), Quantile regression forests.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import Ridge
    >>> y = np.sin(np.arange(121) / 5) + np.random.default_rng(0).normal(scale=0.1, size=121)
    >>> X = np.arange(121.0)[:, None]
    >>> model = trustml.wrap(Ridge(0.1).fit(X[:100], y[:100]), train=(X[:100], y[:100]))
    >>> cp = Spci(model, lags=5, random_state=0).fit().update(X[100], y[100])
    >>> cp.predict_interval(X[101:102], alpha=0.1).shape
    (1, 2)
    """

    def __init__(
        self,
        model: Any,
        lags: int = 10,
        quantiles: str = "forest",
        shortest: bool = False,
        n_models: int = 30,
        block: int = 1,
        refit: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.lags = lags
        self.quantiles = quantiles
        self.shortest = shortest
        self.n_models = n_models
        self.block = block
        self.refit = refit
        self.random_state = random_state

    def fit(self) -> Self:
        """Train or derive the ensemble, and find its leave-one-out residuals.

        Returns
        -------
        Spci
            Itself.

        Raises
        ------
        ValueError
            If there are not more than ``lags`` + 10 training rows.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped: the intervals may then be too narrow.
        """
        check_choice(self.quantiles, "quantiles", ("forest", "linear"))
        lags = check_positive_int(self.lags, "lags")
        rng = numpy_generator(self.random_state)
        seed = int(rng.integers(2**31))
        ensemble = Ensemble(self.model, "Spci", self.n_models, self.block, self.refit, rng)
        n = len(ensemble.residuals)
        if n < lags + _LEAF:
            raise ValueError(
                f"{n} training rows are too few for lags={lags}; at least {lags + _LEAF} are needed"
            )
        self.ensemble_, self.residuals_ = ensemble, ensemble.residuals.tolist()
        self._seed = seed
        self._learnt: _Forest | _Linear | None = None
        return self

    def update(self, x: Any, y: Any) -> Self:
        """Append the residuals of new rows; the next question learns from them.

        Parameters
        ----------
        x : array of shape (k, ...), or one row
            The rows in order of time, or one row without the first axis if ``y`` is a number.
        y : array of shape (k,), or number
            Their values.

        Returns
        -------
        Spci
            Itself.
        """
        check_is_fitted(self, "ensemble_")
        self.residuals_.extend(self.ensemble_.new_residuals(x, y).tolist())
        self._learnt = None
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval, for the step after the last update.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows; all stand for the next step.
        alpha : float in (0, 1), or list of them
            Error rate aimed at.

        Returns
        -------
        array of shape (m, 2), or (m, 2, a) for a list
            Low and high, in the unit of y.
        """
        check_is_fitted(self, "ensemble_")
        alphas, single = read_alphas(alpha)
        offsets = np.array([self._offsets(float(a)) for a in alphas]).T
        ends = self.ensemble_.predict(X)[:, None, None] + offsets
        return restore(ends[:, :, 0] if single else ends, X)

    def _offsets(self, alpha: float) -> tuple[float, float]:
        shares = np.linspace(0, 1, _SHIFTS + 2)[1:-1] if self.shortest else np.array([0.5])
        if self._learnt is None:
            kind = _Forest if self.quantiles == "forest" else _Linear
            self._learnt = kind(np.array(self.residuals_), self.lags, self._seed)
        quantile = self._learnt.quantile
        low = [quantile(alpha * share) for share in shares]
        high = [quantile(1 - alpha * (1 - share)) for share in shares]
        best = int(np.argmin(np.subtract(high, low)))
        # Linear quantiles that were fitted apart may cross.
        return min(low[best], high[best]), max(low[best], high[best])


def _lagged(residuals: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n - lags, lags) and what followed each; then the last window, (1, lags)."""
    windows = np.lib.stride_tricks.sliding_window_view(residuals, lags)
    return windows[:-1], windows[-1:]


class _Forest:
    """The next residual's distribution: past ones, weighted by the leaves they share with now."""

    def __init__(self, residuals: np.ndarray, lags: int, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        before, now = _lagged(residuals, lags)
        after = residuals[lags:]
        forest = RandomForestRegressor(100, min_samples_leaf=_LEAF, random_state=seed)
        leaves = forest.fit(before, after).apply(before)
        same = leaves == forest.apply(now)
        weights = (same / same.sum(axis=0)).mean(axis=1)
        order = np.argsort(after, kind="stable")
        self.values, self.mass = after[order], weights[order].cumsum()

    def quantile(self, level: float) -> float:
        """Return the smallest value with at least this mass at or below it."""
        place = int(np.searchsorted(self.mass, level * self.mass[-1]))
        return float(self.values[min(place, len(self.values) - 1)])


class _Linear:
    """The next residual's quantiles, each linear in the last ones."""

    def __init__(self, residuals: np.ndarray, lags: int, seed: int) -> None:
        self.before, self.now = _lagged(residuals, lags)
        self.after = residuals[lags:]

    def quantile(self, level: float) -> float:
        """Return the predicted quantile, from one linear programme."""
        from sklearn.linear_model import QuantileRegressor

        fitted = QuantileRegressor(quantile=level, alpha=0.0).fit(self.before, self.after)
        return float(fitted.predict(self.now)[0])
