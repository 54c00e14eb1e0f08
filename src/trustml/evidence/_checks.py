"""Checks shared by the floor of evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.validation import check_finite, to_numpy


def as_vector(values: Any, name: str) -> np.ndarray:
    """Return ``values`` as a non-empty float64 vector without NaN; infinities may stand."""
    try:
        vector = np.asarray(to_numpy(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers, got {type(values).__name__}: {error}") from error
    if vector.ndim != 1:
        raise ValueError(f"{name} must be 1-d, got shape {vector.shape}; ravel it first")
    if len(vector) == 0:
        raise ValueError(f"{name} is empty; give at least one value")
    if np.isnan(vector).any():
        where = int(np.flatnonzero(np.isnan(vector))[0])
        raise ValueError(f"{name} has NaN (first at index {where}); drop or repair these rows")
    return vector


def as_finite(values: Any, name: str) -> np.ndarray:
    """Return ``values`` as a non-empty float64 vector of finite numbers."""
    vector = as_vector(values, name)
    check_finite(vector, name)
    return vector


def as_pvalues(values: Any, name: str = "p") -> np.ndarray:
    """Return ``values`` as a vector of numbers in [0, 1]."""
    vector = as_vector(values, name)
    if vector.min() < 0 or vector.max() > 1:
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {vector.min():g} to {vector.max():g}; "
            "turn scores into p-values with trustml.evidence.pvalues"
        )
    return vector


def as_nonnegative(values: Any, name: str) -> np.ndarray:
    """Return weights of any shape as finite float64 numbers of at least 0."""
    array = np.asarray(to_numpy(values))
    flat = as_vector(array.ravel(), name)
    if flat.min() < 0 or np.isinf(flat.max()):
        raise ValueError(f"{name} must be finite and at least 0, got {flat.min()} to {flat.max()}")
    return flat.reshape(array.shape)


def check_probability(value: Any, name: str) -> float:
    """Return ``value`` as a float strictly between 0 and 1."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be one number in (0, 1), got {value!r}") from error
    if not (math.isfinite(number) and 0 < number < 1):
        raise ValueError(f"{name} must be in (0, 1), got {value!r}")
    return number


def check_count(value: Any, name: str, least: int = 1) -> int:
    """Return ``value`` as an int of at least ``least``."""
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return int(number)
