"""What a weighting of calibration rows is."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from trustml.conformal._scored import length
from trustml.core.validation import to_numpy
from trustml.model import Model
from trustml.warnings import CoverageWarning

_FEW = 30  # effective rows: below, the coverage of one calibration set strays by 0.05 and more


class Weights(BaseEstimator, ABC):
    """How much each calibration row counts beside a new row, up to a common factor.

    A subclass learns ``calibration_`` (n,) in ``fit`` and weighs new rows in ``own``; one whose
    calibration weights depend on the new row overrides ``blocks`` and
    ``effective_sample_size_`` too.

    Attributes
    ----------
    calibration_ : ndarray of shape (n,)
        Weights of the calibration rows, in their order.
    """

    calibration_: np.ndarray

    @abstractmethod
    def fit(self, model: Model, X: Any, y: np.ndarray) -> Self:
        """Learn from the calibration rows.

        Parameters
        ----------
        model : Model
            The wrapped model.
        X : array of shape (n, ...)
            Calibration rows, as the user gave them.
        y : ndarray of shape (n,)
            Columns of their classes, or their values.
        """

    @abstractmethod
    def own(self, X: Any) -> np.ndarray:
        """Return the weights (m, 1) of new rows, or (m, c) where they depend on the class.

        One row stands for all, where they do not depend on the new row.

        Parameters
        ----------
        X : array of shape (m, ...)
            New rows.
        """

    def blocks(self, X: Any) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield which new rows, the calibration weights (n,) beside them, and their own (b, k).

        Yields
        ------
        tuple of slice, ndarray, ndarray
        """
        yield slice(None), self.calibration_, self.own(X)

    @property
    def effective_sample_size_(self) -> float:
        """How many rows of equal weight the calibration rows are worth, (Σw)² / Σw²."""
        return effective_size(self.calibration_)


class RatioOf(Weights):
    """Weights that a function of X gives, such as an exact density ratio; None gives ones."""

    def __init__(self, function: Callable[[Any], Any] | None = None) -> None:
        self.function = function

    def fit(self, model: Model, X: Any, y: np.ndarray) -> Self:
        """Weigh the calibration rows."""
        self.calibration_ = self._weigh(X, len(y))
        return self

    def own(self, X: Any) -> np.ndarray:
        """Return the function's values, (m, 1)."""
        return self._weigh(X, 1 if self.function is None else length(X))[:, None]

    def _weigh(self, X: Any, n: int) -> np.ndarray:
        if self.function is None:
            return np.ones(n)
        return check_weights(to_numpy(self.function(X)), n, "weights(X)")


def as_weights(weights: Any) -> Weights:
    """Return a `Weights` to fit from what the user gave.

    Returns
    -------
    Weights

    Raises
    ------
    TypeError
        If it is neither None, a `Weights` nor a callable.
    """
    if isinstance(weights, Weights):
        return copy(weights)  # a shallow one: the target rows that it holds may be many
    if isinstance(weights, type) or not (weights is None or callable(weights)):
        raise TypeError(
            f"weights must be None, a Weights such as CovariateShift(X_target), or a callable "
            f"X -> (n,), got {weights!r}"
        )
    return RatioOf(weights)


def check_weights(values: np.ndarray, n: int, name: str) -> np.ndarray:
    """Return n weights in float64.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If the shape is another, or a weight is negative, infinite or NaN.
    """
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"{name} must be {n} weights, shape ({n},), got {values.shape}")
    values = values.astype(np.float64)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise ValueError(
            f"{name} must be finite and not negative, got {values[bad][0]} at place "
            f"{int(np.flatnonzero(bad)[0])}"
        )
    return values


def check_effective_size(weights: Weights, n: int, stacklevel: int) -> None:
    """Refuse fitted weights of n calibration rows that are all zero, and say when few rows count.

    Raises
    ------
    ValueError
        If all weights are zero.

    Warns
    -----
    CoverageWarning
        If the rows are worth few rows of equal weight.
    """
    size = weights.effective_sample_size_
    if size == 0:
        raise ValueError(
            "every calibration row has weight 0: no calibration row is like the new rows; "
            "calibrate where they are"
        )
    if size < min(_FEW, n / 2):
        warnings.warn(
            f"the {n} weighted calibration rows are worth {size:.1f} rows of equal weight "
            "(effective_sample_size_); answers will be large or cautious, and what one "
            "calibration set gives uneven. Calibrate on rows that are more like the new ones.",
            CoverageWarning,
            stacklevel=stacklevel + 1,
        )


def effective_size(weights: np.ndarray) -> float:
    """Return (Σw)² / Σw² of weights (n,), 0 if all are zero."""
    largest = weights.max()
    if largest == 0:
        return 0.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / np.square(scaled).sum())
