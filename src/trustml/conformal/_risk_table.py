"""Losses of calibration rows at every parameter, and what they are evidence of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from trustml.conformal._risk import Risk
from trustml.core.validation import check_choice, check_finite, check_same_length, to_numpy
from trustml.evidence import MEAN_METHODS, mean_difference_pvalue, mean_pvalue
from trustml.model import Model, as_model


@dataclass(frozen=True, eq=False)
class RiskTable:
    """Losses (n, m) of n rows at m parameters; NaN where a row does not count.

    Attributes
    ----------
    losses : ndarray of shape (n, m)
        In [0, bound].
    bound : float
        Largest loss that is possible.
    binary : bool
        Whether losses are 0 or ``bound`` by their nature.
    groups : tuple of ndarray, or None
        Rows of each group, if the risk is a difference between groups.
    """

    losses: np.ndarray
    bound: float = 1.0
    binary: bool = False
    groups: tuple[np.ndarray, ...] | None = None

    @property
    def risks(self) -> np.ndarray:
        """Estimates (m,) of the risk; NaN where no row counts."""
        if self.groups is None:
            return _means(self.losses)
        means = np.stack([_means(self.losses[rows]) for rows in self.groups])
        spread: np.ndarray = means.max(axis=0) - means.min(axis=0)
        return spread

    def p_values(self, alpha: float, test: str, aim: float) -> np.ndarray:
        """Return p-values (m,) of "the risk at this parameter is at least ``alpha``"."""
        method = self.method(test, "hoeffding-bentkus")
        if self.groups is None:
            return _each(lambda x: mean_pvalue(x, alpha, method, self.bound, aim), self.losses)
        pairs = permutations((_counted(self.losses[rows]) for rows in self.groups), 2)
        p = [mean_difference_pvalue(a, b, alpha, method, self.bound, aim) for a, b in pairs]
        # The difference is large if any pair's is: all must be rejected.
        largest: np.ndarray = np.max(p, axis=0)
        return largest

    def method(self, test: str, otherwise: str) -> str:
        """Return the test's name; "auto" is exact for binary losses."""
        check_choice(test, "test", ("auto", *MEAN_METHODS))
        exact = "clopper-pearson" if self.binary else otherwise
        return exact if test == "auto" else test


def _means(losses: np.ndarray) -> np.ndarray:
    counted = np.isfinite(losses)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(counted, losses, 0.0).sum(axis=0) / counted.sum(axis=0)
    return means


def _counted(losses: np.ndarray) -> np.ndarray:
    kept: np.ndarray = losses[np.isfinite(losses).all(axis=1)]
    return kept


def _each(pvalue: Callable[[np.ndarray], Any], losses: np.ndarray) -> np.ndarray:
    """Test whole columns at once, or, where rows do not count, those that do; none: p = 1."""
    if np.isfinite(losses).all():
        return np.asarray(pvalue(losses))
    columns = [column[np.isfinite(column)] for column in losses.T]
    return np.array([pvalue(column) if len(column) else 1.0 for column in columns])


def loss_table(
    risk: Risk, outputs: np.ndarray, y: np.ndarray, grid: Any, sensitive_features: Any
) -> RiskTable:
    """Return the table of a risk on calibration rows.

    Returns
    -------
    RiskTable

    Raises
    ------
    ValueError
        If losses have another shape, or are NaN where the risk knows no rows that do not count;
        if groups are needed and not given, or one has no rows that count.
    """
    n, columns = len(outputs), []
    for parameter in grid:
        column = to_numpy(risk.losses(outputs, y, parameter)).astype(np.float64)
        if column.shape != (n,):
            raise ValueError(
                f"{risk.name}: losses must have shape ({n},), got {column.shape} at parameter "
                f"{parameter!r}"
            )
        columns.append(column)
    losses = np.stack(columns, axis=1)
    check_losses(losses, risk.bound, risk.partial)
    groups = None
    if risk.compares_groups:
        groups = _groups(sensitive_features, n)
        if min(len(_counted(losses[rows])) for rows in groups) == 0:
            raise ValueError(f"{risk!r}: a group has no calibration rows that the rate counts")
    return RiskTable(losses, risk.bound, risk.binary, groups)


def check_level(alpha: Any, bound: float, name: str = "alpha") -> float:
    """Return the level of a risk in (0, bound) as a float.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If it is not one number.
    ValueError
        If it is outside.
    """
    if np.ndim(alpha) != 0 or np.asarray(alpha).dtype.kind not in "iuf":
        raise TypeError(f"{name} must be one number in (0, {bound:g}), got {alpha!r}")
    if not 0 < alpha < bound:
        raise ValueError(f"{name} must be in (0, {bound:g}), got {alpha!r}")
    return float(alpha)


def check_losses(losses: np.ndarray, bound: float, partial: bool = False) -> None:
    """Refuse losses outside [0, bound], and NaN unless rows may not count.

    Raises
    ------
    ValueError
        If there is one.
    """
    if losses.ndim != 2 or losses.size == 0:
        raise ValueError(
            f"losses must be a non-empty table (n rows, m parameters), got shape {losses.shape}"
        )
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(f"bound must be finite and above 0, got {bound!r}")
    wrong = ~((losses >= 0) & (losses <= bound))
    if partial:
        wrong &= ~np.isnan(losses)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"losses must lie in [0, {bound:g}], got {losses[row, column]:g} in row {row} at "
            f"parameter number {column}; state the largest possible loss as bound="
        )


def _groups(sensitive_features: Any, n: int) -> tuple[np.ndarray, ...]:
    if sensitive_features is None:
        raise ValueError("this risk compares groups: give fit(..., sensitive_features=(n,))")
    labels = np.asarray(to_numpy(sensitive_features))
    if labels.shape != (n,):
        raise ValueError(f"sensitive_features must have shape ({n},), got {labels.shape}")
    found = np.unique(labels.astype(str) if labels.dtype == object else labels)
    if len(found) < 2:
        raise ValueError(f"sensitive_features must hold two groups or more, got {found.tolist()}")
    return tuple(np.flatnonzero(labels == label) for label in found)


def outputs_of(model: Model | None, X: Any) -> np.ndarray:
    """Return probabilities or values (n, ...) in float64; without a model, X itself.

    Returns
    -------
    ndarray of shape (n, ...)

    Raises
    ------
    ValueError
        If there are no rows, or an output is not finite.
    """
    if model is None:
        outputs = to_numpy(X).astype(np.float64)
    else:
        seen = model.observe(X)
        scored = model.values_of(seen.outputs) if seen.probabilities is None else seen.probabilities
        outputs = to_numpy(scored).astype(np.float64)
    if outputs.ndim == 0 or len(outputs) == 0:
        raise ValueError(f"X has no rows: shape {outputs.shape}")
    check_finite(outputs, "X" if model is None else "the model's outputs")
    return outputs


def calibration_rows(
    model: Any, X_cal: Any, y_cal: Any
) -> tuple[Model | None, np.ndarray, np.ndarray]:
    """Return the wrapped model, its outputs on the rows, and their truth as it reads it.

    Returns
    -------
    Model or None, ndarray, ndarray
    """
    wrapped = None if model is None else as_model(model)
    outputs = outputs_of(wrapped, X_cal)
    y = to_numpy(y_cal if wrapped is None else wrapped.targets(y_cal))
    check_same_length(X_cal=outputs, y_cal=y)
    check_finite(y, "y_cal")
    return wrapped, outputs, y
