"""Intervals from a band around the prediction, moved outward by calibrated thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import (
    CalibrationScores,
    Condition,
    check_condition,
    group_rows,
    read_alphas,
)
from trustml.core.validation import restore


@dataclass(frozen=True, eq=False)
class Band:
    """What a model says of n rows: two ends, and the unit that each is moved by; all (n,).

    A unit of zero is an end that does not move: values outside it score +inf.
    """

    low: np.ndarray
    high: np.ndarray
    unit_low: np.ndarray
    unit_high: np.ndarray

    def scores(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far y is below the low end and above the high end, in units."""
        return _score(self.low - y, self.unit_low), _score(y - self.high, self.unit_high)

    def moved(self, below: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Return ends (n, 2, m), moved outward by thresholds (n, m) in units."""
        low = self.low[:, None] - _shift(below, self.unit_low)
        high = self.high[:, None] + _shift(above, self.unit_high)
        crossed = low > high
        # No value is within both: the interval is the one point between them.
        middle = (low[crossed] + high[crossed]) / 2
        low[crossed] = high[crossed] = middle
        return np.stack([low, high], axis=1)


class BandRegressor(BaseEstimator):
    """What the regressors of a band share; they have ``condition`` and ``symmetric``."""

    condition: Condition | None
    symmetric: bool

    def _calibrate(
        self, bands: Callable[[Any], Band], band: Band, X_cal: Any, y: np.ndarray
    ) -> Self:
        check_condition(self.condition)
        n = len(y)
        if len(band.low) != n:
            raise ValueError(f"X_cal has {len(band.low)} rows, y_cal has {n}; give one y a row")
        groups = None if self.condition is None else group_rows(self.condition, X_cal, n)
        below, above = band.scores(y)
        scores = [np.maximum(below, above)] if self.symmetric else [below, above]
        self.calibration_ = tuple(CalibrationScores(side, groups) for side in scores)
        self._bands, self.n_calibration_ = bands, n
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate; half of it on each side where these are calibrated apart.

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
        rates = [a / len(self.calibration_) for a in alphas]
        band = self._bands(X)
        codes = self._codes(X, len(band.low))
        below = above = self.calibration_[0].thresholds(rates, codes)[codes]
        if len(self.calibration_) == 2:
            # The first side has warned: both have the same rows.
            above = self.calibration_[1].thresholds(rates, codes[:0])[codes]
        ends = band.moved(below, above)
        return restore(ends[:, :, 0] if single else ends, X)

    def _codes(self, X: Any, n: int) -> np.ndarray:
        """Return the group of each row, as `CalibrationScores` counts them."""
        if self.condition is None:
            return np.zeros(n, dtype=int)
        return self.calibration_[0].codes(group_rows(self.condition, X, n))


def _score(excess: np.ndarray, unit: np.ndarray) -> np.ndarray:
    # At a threshold of -1 and above this is the interval exactly, below it the interval is wider.
    score = np.where(excess > 0, np.inf, -1.0)
    np.divide(excess, unit, out=score, where=unit > 0)
    return score


def _shift(thresholds: np.ndarray, unit: np.ndarray) -> np.ndarray:
    shift = np.full(thresholds.shape, np.inf)
    np.multiply(thresholds, unit[:, None], out=shift, where=np.isfinite(thresholds))
    return shift
