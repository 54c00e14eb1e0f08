"""Intervals for streams: the error rate is controlled in the long run, whatever the stream does."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._adaptive_past import OnlineRule
from trustml.conformal._adaptive_run import AdaptiveTrace, Run, as_online_rule, check_window
from trustml.conformal._calibration import read_alphas
from trustml.conformal._one_row import as_rows
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.core.validation import restore
from trustml.evidence import conformal_rank, quantile
from trustml.model import Model, as_model


class AdaptiveConformal(BaseEstimator):
    """Intervals that learn from every new value and miss a share alpha of them in the long run.

    For time series and shifting data: nothing is assumed exchangeable. The share is proven for
    "aci" and "pid", whatever the data; not for "agaci" and "dtaci". Ask for the interval of the
    next row, then `update` with its true value. An interval may be the whole line (low
    -inf, high +inf), or empty (low above high), where the method has to make good for misses
    or for hits; both are part of the promise.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes, or a pair of them
        A regressor of one output: scores are absolute residuals. A pair (lower, upper) of
        quantile regressors: scores are the distance outside their interval, negative inside.
    method : {"aci", "agaci", "dtaci", "pid"} or OnlineRule
        How the threshold moves; see `Aci`, `AgAci`, `DtAci`, `Pid`.
    window : int or None
        Past scores whose quantile is taken; None: all of them.

    Attributes
    ----------
    models_ : list of Model
        The wrapped model, or both.
    calibration_ : ndarray of shape (n,)
        Calibration scores.
    history_ : list of float
        Scores of the updates, in order of time.

    References
    ----------
    Gibbs and Candès (2021), Adaptive conformal inference under distribution shift,
    arXiv:2106.00170.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> y = X.sum(1) + rng.normal(size=300) * np.where(np.arange(300) < 200, 1, 3)
    >>> cp = AdaptiveConformal(Ridge().fit(X[:100], y[:100])).fit(X[100:200], y[100:200])
    >>> before = cp.predict_interval(X[200:201], alpha=0.1)
    >>> after = cp.update(X[200:], y[200:]).predict_interval(X[200:201], alpha=0.1)
    >>> bool(np.diff(after) > np.diff(before))
    True
    """

    def __init__(
        self, model: Any, method: str | OnlineRule = "aci", window: int | None = None
    ) -> None:
        self.model = model
        self.method = method
        self.window = window

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Score the calibration rows, which the stream starts from; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on, in order of time if there is a ``window``.
        y_cal : array of shape (n,)
            Their values.

        Returns
        -------
        AdaptiveConformal
            Itself.

        Raises
        ------
        ValueError
            If ``model`` is a list or tuple of other than two.
        """
        pair = isinstance(self.model, (tuple, list))
        if pair and len(self.model) != 2:
            raise ValueError(
                f"model must be one regressor or a pair (lower, upper), got {len(self.model)}"
            )
        models = [as_model(model) for model in (self.model if pair else [self.model])]
        for model in models:
            check_regressor(model, "AdaptiveConformal")
        self._rule, self._window = as_online_rule(self.method), check_window(self.window)
        self.calibration_ = _scores(models, X_cal, y_cal)
        self.models_ = models
        self.history_: list[float] = []
        self._runs: dict[Fraction, Run] = {}
        return self

    def update(self, x: Any, y: Any) -> Self:
        """Learn the true values of rows, in order of time.

        Parameters
        ----------
        x : array of shape (k, ...), or one row
            The rows, or one row without the first axis if ``y`` is a number.
        y : array of shape (k,), or number
            Their values.

        Returns
        -------
        AdaptiveConformal
            Itself.
        """
        check_is_fitted(self, "calibration_")
        x, y = as_rows(x, y)
        scores = _scores(self.models_, x, y).tolist()
        for run in self._runs.values():
            run.observe(scores)
        self.history_.extend(scores)
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval, by the thresholds that stand now.

        An alpha that was not asked before costs one replay of the stream.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows; all get the same threshold, as no value is seen in between.
        alpha : float in (0, 1), or list of m of them
            Long-run error rate; each has a controller of its own.

        Returns
        -------
        array of shape (n, 2), or (n, 2, m) for a list
            Low and high, in the unit of y. An interval whose low end is above its high end is
            empty.

        Warns
        -----
        CoverageWarning
            If there are too few past scores for alpha; the interval is then the whole line.
        """
        check_is_fitted(self, "calibration_")
        alphas, single = read_alphas(alpha)
        low, high = _ends(self.models_, X)
        runs = [self._run(a) for a in alphas]
        limits = np.array([run.threshold for run in runs])
        _warn_if_too_few(min(runs, key=lambda run: run.alpha))
        ends = np.stack([low[:, None] - limits, high[:, None] + limits], axis=1)
        return restore(ends[:, :, 0] if single else ends, X)

    def trace(self, alpha: float = 0.1) -> AdaptiveTrace:
        """Return thresholds, levels and misses of the updates so far.

        Parameters
        ----------
        alpha : float in (0, 1)
            Error rate aimed at.

        Returns
        -------
        AdaptiveTrace
        """
        check_is_fitted(self, "calibration_")
        return self._run(read_alphas(alpha)[0][0]).trace()

    def _run(self, alpha: Fraction) -> Run:
        """Return the controller for alpha, replayed to now if it is new."""
        if alpha not in self._runs:
            run = Run(self._rule, alpha, self.calibration_.tolist(), self._window)
            self._runs[alpha] = run.observe(self.history_)
        return self._runs[alpha]


def _ends(models: list[Model], X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Low and high before the threshold is added: the quantiles, or the prediction twice."""
    values = [predicted(model, X) for model in models]
    return values[0], values[-1]


def _scores(models: list[Model], X: Any, y: Any) -> np.ndarray:
    low, high = _ends(models, X)
    values = measured(models[0], y)
    if len(values) != len(low):
        raise ValueError(f"X has {len(low)} rows, y has {len(values)}; give one y a row")
    scores: np.ndarray = np.maximum(low - values, values - high)
    return scores


def _warn_if_too_few(run: Run) -> None:
    n = len(run.past)
    if math.isinf(run.threshold) and conformal_rank(n, run.alpha) > n:
        quantile(run.past.sorted, run.alpha)  # warns, and says how many are needed
