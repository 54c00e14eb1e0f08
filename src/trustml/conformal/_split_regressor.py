"""Split conformal prediction intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from trustml.conformal._band import Band, BandRegressor
from trustml.conformal._calibration import Condition
from trustml.conformal._regression import as_regressor, measured, predicted
from trustml.conformal._residual_score import ResidualScore, Scale, as_residual_score
from trustml.model import Model


class SplitRegressor(BandRegressor):
    """Intervals that hold the true value with probability at least 1 - alpha.

    The guarantee is marginal, over calibration and test rows that are exchangeable and that the
    model was not trained on. With a ``condition`` it holds within each group.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output.
    score : ResidualScore, or the name of one
        "absolute": one width for all rows. Width in proportion to the row's difficulty, as the
        nearest training rows ("normalized"), a second model of the residuals ("residual_model") or
        the curvature engine ("infinitesimal_jackknife") see it.
    condition : None, column or callable X -> groups (n,)
        Coverage for every group of rows.
    symmetric : bool
        False calibrates signed residuals, alpha / 2 on each side: for skewed errors, and models
        that err to one side.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    calibration_ : tuple of CalibrationScores
        Sorted calibration scores by group: of both sides, or of each.
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
        condition: Condition | None = None,
        symmetric: bool = True,
    ) -> None:
        self.model = model
        self.score = score
        self.condition = condition
        self.symmetric = symmetric

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
        """
        model, score = as_regressor(self.model, "SplitRegressor"), as_residual_score(self.score)
        bands = ResidualBand(model, score.scale(model))
        self._calibrate(bands, bands(X_cal), X_cal, measured(model, y_cal))
        self.model_ = model
        return self


@dataclass(frozen=True, eq=False)
class ResidualBand:
    """The prediction as both ends, the row's scale as the unit."""

    model: Model
    scale: Scale

    def __call__(self, X: Any) -> Band:
        """Return the band of the rows."""
        centre = predicted(self.model, X)
        unit = _scales(self.scale, X, len(centre))
        return Band(centre, centre, unit, unit)


def _scales(scale: Scale, X: Any, n: int) -> np.ndarray:
    values = scale(X)
    if values.shape != (n,) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"the scale of a row must be one finite number above 0, shape ({n},), got shape "
            f"{values.shape}, least {values.min() if values.size else None}"
        )
    return values
