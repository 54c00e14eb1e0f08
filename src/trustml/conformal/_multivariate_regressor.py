"""Conformal regions for models of several outputs."""

from __future__ import annotations

from fractions import Fraction
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
from trustml.conformal._multivariate_shape import ResidualShape, as_residual_shape
from trustml.conformal._regression import as_regressor
from trustml.conformal._residual_score import space
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_finite, check_same_length, restore, to_numpy
from trustml.model import Model


class MultivariateRegressor(BaseEstimator):
    """Regions that hold all k true values of a row at once with probability at least 1 - alpha.

    The shape is learnt from one part of the calibration rows, drawn at random, or from the
    model's training rows, and its size calibrated on the rest: whatever the shape, the guarantee
    is that of split conformal prediction, over exchangeable calibration and test rows.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of k >= 2 outputs.
    shape : {"ellipsoid", "copula", "box"} or ResidualShape
        "ellipsoid": the least volume where residuals of different outputs go together;
        `Ellipsoid` has local covariances. "box", "copula": one interval for each output, of
        widths by the residuals' spread, or by their ranks, which suits outputs whose residuals
        have different laws.
    condition : None, column or callable X -> groups (n,)
        Coverage for every group of rows.
    share : float in [0, 1)
        Part of the calibration rows that the shape is learnt from; 0: the training rows, which
        needs ``train=`` and a model that errs on new rows about as on these.
    random_state : int, Generator or None
        Draws that part.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    region_ : Region
        The shape that was learnt.
    calibration_ : CalibrationScores
        Sorted sizes that the calibration rows need, by group.
    n_outputs_ : int
        k.
    n_calibration_ : int
        Number of calibration rows, without those that the shape was learnt from.

    References
    ----------
    Messoudi, Destercke and Rousseau (2021), Copula-based conformal prediction for multi-target
    regression, arXiv:2101.12002.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 3))
    >>> Y = X @ rng.normal(size=(3, 2)) + rng.normal(size=(300, 1)) + rng.normal(size=(300, 2))
    >>> cp = MultivariateRegressor(Ridge().fit(X[:100], Y[:100]), random_state=0)
    >>> cp = cp.fit(X[100:250], Y[100:250])
    >>> cp.predict_box(X[250:], alpha=0.1).shape
    (50, 2, 2)
    >>> bool(cp.contains(X[250:], Y[250:], alpha=0.1).mean() > 0.8)
    True
    """

    def __init__(
        self,
        model: Any,
        shape: str | ResidualShape = "ellipsoid",
        condition: Condition | None = None,
        share: float = 0.25,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.shape = shape
        self.condition = condition
        self.share = share
        self.random_state = random_state

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Learn the shape and calibrate its size; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n, k)
            Their values.

        Returns
        -------
        MultivariateRegressor
            Itself.

        Raises
        ------
        ValueError
            If the model or y has one output, lengths differ, a value is NaN, no rows are left to
            learn from or to calibrate on, or an output has no residuals but zeros.
        """
        check_condition(self.condition)
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be in [0, 1), got {self.share!r}")
        shape = as_residual_shape(self.shape)
        model = as_regressor(self.model, "MultivariateRegressor")
        residuals, points = _seen(model, X_cal, y_cal, shape.local)
        n = len(residuals)
        # Places, not rows, are drawn: what is left is exchangeable with new rows for every seed.
        aside = np.zeros(n, dtype=bool)
        drawn = numpy_generator(self.random_state).permutation(n)
        aside[drawn[: int(np.ceil(self.share * n))]] = True
        if aside.all():
            raise ValueError(f"{n} calibration rows leave none beside the share {self.share}")
        region = shape.learnt(*_shape_rows(model, residuals, points, aside, shape.local))
        groups = None if self.condition is None else group_rows(self.condition, X_cal, n)[~aside]
        sizes = region.sizes(residuals[~aside], points[~aside])
        self.calibration_ = CalibrationScores(sizes, groups)
        self.model_, self.shape_, self.region_ = model, shape, region
        self.n_outputs_, self.n_calibration_ = residuals.shape[1], len(sizes)
        return self

    def contains(self, X: Any, y: Any, alpha: Any = 0.1) -> Any:
        """Return whether each row's region holds its values.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            Rows.
        y : array of shape (n, k)
            Values.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate. Regions of a smaller alpha contain those of a larger one.

        Returns
        -------
        bool array of shape (n,), or (n, m) for a list

        Warns
        -----
        CoverageWarning
            If a group has too few calibration rows for alpha; its regions are everything.
        """
        check_is_fitted(self, "calibration_")
        alphas, single = read_alphas(alpha)
        sizes = self._sizes(X, y)
        held = sizes[:, None] <= self._limits(X, len(sizes), alphas)
        return restore(held[:, 0] if single else held, X)

    def p_values(self, X: Any, y: Any) -> Any:
        """Return the conformal p-value of each row's values; the region at alpha is {p > alpha}.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            Rows.
        y : array of shape (n, k)
            Values.

        Returns
        -------
        array of shape (n,)
            In (0, 1]; super-uniform for the true values.
        """
        check_is_fitted(self, "calibration_")
        sizes = self._sizes(X, y)
        return restore(self.calibration_.p_values(sizes, self._codes(X, len(sizes))), X)

    def predict_box(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of the smallest box around each row's region.

        For "box" and "copula" the region is the box; an ellipsoid's box holds more than it.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate.

        Returns
        -------
        array of shape (n, k, 2), or (n, k, 2, m) for a list
            Low and high of each output, in its unit; infinite where there are too few
            calibration rows.

        Warns
        -----
        CoverageWarning
            If a group has too few calibration rows for alpha.
        """
        check_is_fitted(self, "calibration_")
        alphas, single = read_alphas(alpha)
        centre = _predicted(self.model_, X)
        limits = self._limits(X, len(centre), alphas)
        half = self.region_.half_widths(limits, self._points(X), self.n_outputs_)
        ends = np.stack([centre[..., None] - half, centre[..., None] + half], axis=2)
        return restore(ends[..., 0] if single else ends, X)

    def volume(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the volume of each row's region.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate.

        Returns
        -------
        array of shape (n,), or (n, m) for a list
            In the product of the outputs' units; infinite where there are too few calibration
            rows.

        Warns
        -----
        CoverageWarning
            If a group has too few calibration rows for alpha.
        """
        check_is_fitted(self, "calibration_")
        alphas, single = read_alphas(alpha)
        limits = self._limits(X, len(_predicted(self.model_, X)), alphas)
        volumes = self.region_.volumes(limits, self._points(X), self.n_outputs_)
        return restore(volumes[:, 0] if single else volumes, X)

    def _sizes(self, X: Any, y: Any) -> np.ndarray:
        residuals, points = _seen(self.model_, X, y, self.shape_.local)
        return self.region_.sizes(residuals, points)

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        codes = self._codes(X, n)
        limits: np.ndarray = self.calibration_.thresholds(alphas, codes, stacklevel=3)[codes]
        return limits

    def _codes(self, X: Any, n: int) -> np.ndarray:
        if self.condition is None:
            return np.zeros(n, dtype=int)
        return self.calibration_.codes(group_rows(self.condition, X, n))

    def _points(self, X: Any) -> np.ndarray:
        return space(self.model_, X) if self.shape_.local else np.empty((0, 0))


def _predicted(model: Model, X: Any) -> np.ndarray:
    values = to_numpy(model.values_of(model.observe(X).outputs)).astype(np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            f"regions are for models of several outputs, this one gives {values.shape}; for one "
            "output use SplitRegressor"
        )
    check_finite(values, "the model's predictions")
    return values


def _seen(model: Model, X: Any, y: Any, local: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals (n, k) and, where the shape asks, points (n, h)."""
    centre, targets = _predicted(model, X), to_numpy(y).astype(np.float64)
    check_same_length(X=centre, y=targets)
    if targets.shape != centre.shape:
        raise ValueError(f"y must have shape {centre.shape}, one value an output: {targets.shape}")
    check_finite(targets, "y")
    return targets - centre, space(model, X) if local else np.empty((len(targets), 0))


def _shape_rows(
    model: Model, residuals: np.ndarray, points: np.ndarray, aside: np.ndarray, local: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals and points that the shape is learnt from."""
    if aside.any():
        residuals, points = residuals[aside], points[aside]
    else:
        model.require_train("MultivariateRegressor with share=0")
        train: Any = model.train
        residuals, points = _seen(model, train, train.targets, local)
    exact = ~residuals.any(axis=0)
    if exact.any():
        raise ValueError(
            f"output {int(exact.argmax())} has no residual but zeros in the {len(residuals)} rows "
            "that the shape is learnt from; leave such outputs out, or raise share"
        )
    return residuals, points
