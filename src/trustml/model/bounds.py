"""Checks of what describes inputs and outputs: bounds and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trustml.core.validation import to_numpy


def check_bounds(bounds: Any) -> tuple[Any, Any] | None:
    """Return (low, high) as floats or arrays.

    Parameters
    ----------
    bounds : (low, high) or None
        Scalars, or arrays that broadcast with one input row.

    Returns
    -------
    tuple or None

    Raises
    ------
    ValueError
        If it is not a pair, a value is NaN, or low is not below high everywhere.
    """
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ValueError(f"bounds must be (low, high), got {bounds!r}")
    low, high = (np.asarray(to_numpy(side), dtype=np.float64) for side in bounds)
    if not bool(np.all(low < high)):
        raise ValueError(f"bounds need low < high for every feature, got {bounds!r}")
    return (
        float(low) if low.ndim == 0 else low,
        float(high) if high.ndim == 0 else high,
    )


def check_names(names: Sequence[str] | None, expected: int | None, what: str) -> list[str] | None:
    """Return names as a list of strings.

    Parameters
    ----------
    names : sequence of str or None
        One per column.
    expected : int or None
        How many there must be.
    what : str
        The argument's name.

    Returns
    -------
    list of str or None

    Raises
    ------
    ValueError
        If their number is wrong.
    """
    if names is None:
        return None
    found = [str(name) for name in names]
    if expected is not None and len(found) != expected:
        raise ValueError(f"{what} has {len(found)} names for {expected} columns")
    return found
