"""Split conformal prediction intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import CalibrationScores, group_rows, read_alphas
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.conformal._residual_score import ResidualScore, Scale, as_residual_score
from trustml.core.validation import restore
from trustml.model import as_model


class SplitRegressor(BaseEstimator):
    """Intervals that hold the true value with probability at least 1 - alpha.

    The guarantee is marginal, over calibration and test rows that are exchangeable and that the
    model was not trained on. With a ``condition`` it holds within each group.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output.
    score : {"absolute", "normalized"} or ResidualScore
        "absolute": one width for all rows. "normalized": width in proportion to the row's
        difficulty.
    condition : None or callable X -> groups (n,)
        Coverage for every group of rows.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    calibration_ : CalibrationScores
        Sorted calibration scores by group.
    n_calibration_ : int
        Number of calibration rows.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani and Wasserman (2018), Distribution-free predictive inference
    for regression, arXiv:1604.04173.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = X.sum(1) + rng.normal(size=200)
    >>> cp = SplitRegressor(Ridge().fit(X[:100], y[:100])).fit(X[100:], y[100:])
    >>> cp.predict_interval(X[:4], alpha=0.1).shape
    (4, 2)
    """

    def __init__(
        self,
        model: Any,
        score: str | ResidualScore = "absolute",
        condition: Callable[[Any], Any] | None = None,
    ) -> None:
        self.model = model
        self.score = score
        self.condition = condition

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
        SplitRegressor
            Itself.

        Raises
        ------
        ValueError
            If lengths differ, or ``condition`` is not callable.
        """
        model, score = as_model(self.model), as_residual_score(self.score)
        check_regressor(model, "SplitRegressor")
        if not (self.condition is None or callable(self.condition)):
            raise ValueError(f"condition must be None or callable, got {self.condition!r}")
        centre, y = predicted(model, X_cal), measured(model, y_cal)
        if len(centre) != len(y):
            raise ValueError(f"X_cal has {len(centre)} rows, y_cal has {len(y)}; give one y a row")
        scale = score.scale(model)
        scores = np.abs(y - centre) / _scales(scale, X_cal, len(y))
        groups = None if self.condition is None else group_rows(self.condition, X_cal, len(y))
        self.calibration_ = CalibrationScores(scores, groups)
        self.model_, self.scale_, self.n_calibration_ = model, scale, len(y)
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
            Low and high, in the unit of y; infinite where there are too few calibration rows.

        Warns
        -----
        CoverageWarning
            If a group has too few calibration rows for alpha.
        """
        check_is_fitted(self, "calibration_")
        alphas, single = read_alphas(alpha)
        centre = predicted(self.model_, X)
        codes = np.zeros(len(centre), dtype=int)
        if self.condition is not None:
            codes = self.calibration_.codes(group_rows(self.condition, X, len(centre)))
        limits = self.calibration_.thresholds(alphas, codes)[codes]
        half = limits * _scales(self.scale_, X, len(centre))[:, None]
        ends = np.stack([centre[:, None] - half, centre[:, None] + half], axis=1)
        return restore(ends[:, :, 0] if single else ends, X)


def _scales(scale: Scale, X: Any, n: int) -> np.ndarray:
    values = scale(X)
    if values.shape != (n,) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"the scale of a row must be one finite number above 0, shape ({n},), got shape "
            f"{values.shape}, least {values.min() if values.size else None}"
        )
    return values
