"""Conformalized quantile regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from trustml.conformal._band import Band, BandRegressor
from trustml.conformal._calibration import Condition
from trustml.conformal._regression import as_regressor, measured, predicted
from trustml.core.validation import check_choice
from trustml.model import Model


class ConformalizedQuantileRegressor(BandRegressor):
    """Two quantile models whose band is widened or narrowed until it covers 1 - alpha.

    The guarantee is marginal and needs nothing of the models; good ones make the width follow the
    noise. Quantiles that cross in a row are put in order. Where even the narrowed band is empty,
    the interval is a point.

    Parameters
    ----------
    model_lo, model_hi : Model or what `trustml.wrap` takes
        Regressors of a low and a high conditional quantile of y, near alpha / 2 and 1 - alpha / 2
        for the alpha in view. A callable X -> (n,) will do.
    score : {"cqr", "cqr-r", "cqr-m"}
        What an end is moved in proportion to: "cqr" nothing, all rows by the same distance;
        "cqr-r" the distance between the quantiles; "cqr-m" its own distance from the median.
    model_median : Model or what `trustml.wrap` takes, or None
        Regressor of the conditional median; "cqr-m" only.
    condition : None, column or callable X -> groups (n,)
        Coverage for every group of rows.
    symmetric : bool
        False calibrates the two ends apart, alpha / 2 each: y is then below the interval, and
        above it, with probability at most alpha / 2; wider in return.

    Attributes
    ----------
    models_ : tuple of Model
        The wrapped models: low, high, and the median if there is one.
    calibration_ : tuple of CalibrationScores
        Sorted calibration scores by group: of both ends, or of each.
    n_calibration_ : int
        Number of calibration rows.
    crossed_ : float
        Share of the calibration rows in which the models' quantiles cross.

    References
    ----------
    Romano, Patterson and Candès (2019), Conformalized quantile regression, arXiv:1905.03222.
    Kivaranovic, Johnson and Leeb (2020), Adaptive, distribution-free prediction intervals for deep
    networks, arXiv:1905.10634 ("cqr-m"). Sesia and Candès (2020), A comparison of some conformal
    quantile regression methods, arXiv:1909.05433 ("cqr-r").

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import QuantileRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(size=(200, 1))
    >>> y = X[:, 0] * rng.normal(size=200)
    >>> low, high = (
    ...     QuantileRegressor(quantile=q, alpha=0).fit(X[:100], y[:100]) for q in (0.05, 0.95)
    ... )
    >>> cp = ConformalizedQuantileRegressor(low, high).fit(X[100:], y[100:])
    >>> cp.predict_interval(X[:4], alpha=[0.1, 0.2]).shape
    (4, 2, 2)
    """

    def __init__(
        self,
        model_lo: Any,
        model_hi: Any,
        score: Literal["cqr", "cqr-r", "cqr-m"] = "cqr",
        model_median: Any = None,
        condition: Condition | None = None,
        symmetric: bool = True,
    ) -> None:
        self.model_lo = model_lo
        self.model_hi = model_hi
        self.score = score
        self.model_median = model_median
        self.condition = condition
        self.symmetric = symmetric

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Score the calibration rows; the models are not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the models take
            Rows that the models were not trained on.
        y_cal : array of shape (n,)
            Their values.

        Returns
        -------
        ConformalizedQuantileRegressor
            Itself.

        Raises
        ------
        ValueError
            If ``score`` is unknown, "cqr-m" has no median, or another score has one.
        """
        check_choice(self.score, "score", ("cqr", "cqr-r", "cqr-m"))
        if (self.model_median is None) == (self.score == "cqr-m"):
            raise ValueError(
                "model_median belongs to score='cqr-m', and to no other; got "
                f"score={self.score!r}, model_median={self.model_median!r}"
            )
        given = [self.model_lo, self.model_hi, self.model_median][: 2 + (self.score == "cqr-m")]
        models = tuple(as_regressor(m, "ConformalizedQuantileRegressor") for m in given)
        bands = _QuantileBand(models, self.score)
        quantiles = bands.quantiles(X_cal)
        self._calibrate(bands, bands.ordered(quantiles), X_cal, measured(models[0], y_cal))
        self.models_ = models
        self.crossed_ = float((np.diff(quantiles, axis=0) < 0).any(axis=0).mean())
        return self


@dataclass(frozen=True, eq=False)
class _QuantileBand:
    models: tuple[Model, ...]
    score: str

    def quantiles(self, X: Any) -> np.ndarray:
        """Return (2, n), or (3, n) with the median between, as the models give them."""
        found = np.stack([predicted(model, X) for model in self.models])
        return found if len(found) == 2 else found[[0, 2, 1]]

    def __call__(self, X: Any) -> Band:
        """Return the band of the rows."""
        return self.ordered(self.quantiles(X))

    def ordered(self, quantiles: np.ndarray) -> Band:
        """Return the band between the outer quantiles, crossed ones put in order."""
        ordered = np.sort(quantiles, axis=0)
        low, high = ordered[0], ordered[-1]
        if self.score == "cqr":
            units = np.ones((2, len(low)))
        elif self.score == "cqr-r":
            units = np.stack([high - low, high - low])
        else:
            units = np.diff(ordered, axis=0)
        return Band(low, high, units[0], units[1])
