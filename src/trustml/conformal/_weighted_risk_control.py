"""Conformal risk control for rows that are drawn otherwise than the calibration rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._conformal_risk_control import monotone
from trustml.conformal._risk import LossFunction, Risk, as_risk
from trustml.conformal._risk_controller import as_grid, only_table
from trustml.conformal._risk_table import calibration_rows, check_level, loss_table, outputs_of
from trustml.conformal._weights import Weights, as_weights, check_effective_size
from trustml.core.validation import restore
from trustml.warnings import CoverageWarning

_TIE = 1e-12  # a weighted sum that is above its limit but by rounding, as a share of all weight


class WeightedRiskControl(BaseEstimator):
    """For each row the boldest parameter at which its expected loss is at most alpha, under shift.

    With exact density ratios as weights the expected loss of a new row is at most alpha under the
    new rows' law; with estimated ones, up to the error of the estimate. A row's boldest parameter
    is the last at which the weighted mean of the calibration losses and of its own, counted at
    the bound, is at most alpha: rows that weigh more get safer ones.

    Parameters
    ----------
    model : Model, what `trustml.wrap` takes, or None
        None: the rows of X are the scores themselves.
    risk : {"miscoverage", "false-negative-rate"}, Risk or callable
        A callable is (outputs, y, parameter) -> losses (n,) in [0, bound]. A row's loss must not
        fall along the grid.
    alpha : float in (0, bound)
        Level of the expected loss.
    weights : None, Weights or callable X -> (n,)
        As for `WeightedClassifier`. Where they depend on a new row's label, its largest counts.
    grid : sequence of m parameters, or None
        From the safest. None: 101 thresholds in [0, 1].
    monotonize : bool
        Replace each loss by the largest at this parameter and the safer ones, with a warning,
        instead of refusing losses that fall.
    bound : float
        Largest loss of a callable.

    Attributes
    ----------
    weights_ : Weights
        Fitted on the calibration rows.
    effective_sample_size_ : float
        How many rows of equal weight the calibration rows are worth, (Σw)² / Σw².
    loss_ : Risk
        The risk whose losses are controlled.
    grid_ : ndarray or list
        The m parameters.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei and Schuster (2022), Conformal risk control, arXiv:2208.02814
    (section 4.1).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.random((500, 8)) < 0.3
    >>> scores = np.clip(0.3 * y + 0.7 * rng.random((500, 8)), 0, 1)
    >>> ratio = lambda scores: scores.mean(axis=1)
    >>> crc = WeightedRiskControl(risk="false-negative-rate", weights=ratio).fit(scores, y)
    >>> crc.predict(scores[:2]).shape
    (2, 8)
    """

    def __init__(
        self,
        model: Any = None,
        risk: str | Risk | LossFunction = "miscoverage",
        alpha: float = 0.1,
        weights: Weights | Callable[[Any], Any] | None = None,
        grid: Any = None,
        monotonize: bool = False,
        bound: float = 1.0,
    ) -> None:
        self.model = model
        self.risk = risk
        self.alpha = alpha
        self.weights = weights
        self.grid = grid
        self.monotonize = monotonize
        self.bound = bound

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Weigh the calibration rows and their losses; no training.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that neither the model nor the grid has seen; without a model, their scores.
        y_cal : array of shape (n,) or (n, ...)
            Their truth. A ValueError says so if the risk is no mean over all rows, losses fall, or
            all weights are zero.

        Returns
        -------
        WeightedRiskControl
            Itself.

        Warns
        -----
        CoverageWarning
            If the rows are worth few rows of equal weight, or losses are raised.
        """
        model, outputs, y = calibration_rows(self.model, X_cal, y_cal)
        risk = as_risk(self.risk, self.bound)
        grid = as_grid(risk.default_grid() if self.grid is None else self.grid)
        table = only_table([loss_table(risk, outputs, y, grid, None)], type(self).__name__)
        check_level(self.alpha, table.bound)
        losses = monotone(table, self.monotonize) / table.bound
        weights = as_weights(self.weights).fit(model, X_cal, y)  # type: ignore[arg-type]
        check_effective_size(weights, len(y), stacklevel=2)
        self.model_, self.loss_, self.grid_ = model, risk, grid
        self.weights_, self.losses_, self.level_ = weights, losses, self.alpha / table.bound
        self.effective_sample_size_ = weights.effective_sample_size_
        return self

    def parameters(self, X: Any) -> Any:
        """Return each new row's parameter.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.

        Returns
        -------
        list of n parameters
            None where no parameter of the grid is valid and none is safe for certain.

        Warns
        -----
        CoverageWarning
            If no parameter of the grid is valid for some rows; theirs is the one at which the
            risk is 0 for certain.
        """
        check_is_fitted(self, "losses_")
        places = self._places(X, len(outputs_of(self.model_, X)))
        return [self._parameter(place) for place in places]

    def predict(self, X: Any) -> Any:
        """Return the decisions, each at its row's parameter.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows; without a model, their scores.

        Returns
        -------
        array of shape (n, ...)
            What the risk decides, such as bool sets.

        Raises
        ------
        ValueError
            If no parameter is valid for some rows, and none is safe for certain.

        Warns
        -----
        CoverageWarning
            If no parameter of the grid is valid for some rows.
        """
        check_is_fitted(self, "losses_")
        outputs = outputs_of(self.model_, X)
        places = self._places(X, len(outputs))
        if self.loss_.safest is None and (places < 0).any():
            raise ValueError(
                "no parameter of the grid controls the risk of some rows, and none is safe for "
                "certain: give more calibration rows like them, a higher alpha or a safer grid"
            )
        order = np.argsort(places, kind="stable")
        alike = np.split(order, np.flatnonzero(np.diff(places[order])) + 1)
        parts = [self.loss_.decide(outputs[r], self._parameter(places[r[0]])) for r in alike]
        return restore(np.concatenate(parts)[np.argsort(order)], X)

    def _parameter(self, place: int) -> Any:
        return self.grid_[place] if place >= 0 else self.loss_.safest

    def _places(self, X: Any, n: int) -> np.ndarray:
        """Return the position of each row's last valid parameter, -1 for none."""
        places = np.empty(n, dtype=int)
        for rows, calibration, own in self.weights_.blocks(X):
            unit = float(calibration.max()) or 1.0
            sums = np.maximum.accumulate(calibration / unit @ self.losses_)
            with np.errstate(over="ignore", invalid="ignore"):
                # The loss of the new row counts at the bound, so its largest weight is safe.
                extra = own.max(axis=1) / unit
                mass = calibration.sum() / unit + extra
                limits = (self.level_ + _TIE) * mass - extra
            found = np.searchsorted(sums, limits, side="right") - 1
            places[rows] = np.where((mass > 0) & np.isfinite(mass), found, -1)
        none = int((places < 0).sum())
        if none:
            warnings.warn(
                f"no parameter of the grid controls the risk of {none} of {n} rows, which weigh "
                f"too much beside the {len(self.losses_)} calibration rows: theirs is "
                f"{self.loss_.safest}. Calibrate on more rows like them, raise alpha, or give a "
                "grid with safer parameters.",
                CoverageWarning,
                stacklevel=3,
            )
        return places
