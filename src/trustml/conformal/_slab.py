"""Worst-slab coverage: conditional coverage where it is worst."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.conformal._coverage import covered
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_finite, check_positive_int, to_numpy
from trustml.evidence import Interval, clopper_pearson

_SEARCH_SHARE = 0.25
_MIN_ROWS = 40


def worst_slab_coverage(
    X: Any,
    y_true: Any,
    prediction: Any,
    delta: float = 0.2,
    n_directions: int = 500,
    classes: Any = None,
    level: float = 0.95,
    random_state: RandomState = None,
) -> Interval:
    """Return the coverage inside the slab {a <= v'x <= b} where it is lowest.

    The slab of at least a share ``delta`` of the rows is searched over random directions v on a
    quarter of the rows, exactly for each direction, and its coverage is measured on the other
    rows: the search cannot flatter or slander the predictor.

    Parameters
    ----------
    X : array of shape (n, ...)
        Rows as numbers (flattened), standardised here.
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at one alpha.
    delta : float in (0, 1)
        Least share of rows in the slab.
    n_directions : int
        Random directions that are tried.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of the interval.
    random_state : int, Generator or None
        Seed of the split and the directions.

    Returns
    -------
    Interval
        Coverage in the slab on rows that did not choose it, with its Clopper-Pearson interval.

    Raises
    ------
    ValueError
        If there are too few rows to search and to measure, or shapes do not fit.

    References
    ----------
    Cauchois, Gupta and Duchi (2021), Knowing what you know: valid and validated confidence sets
    in multiclass and multilabel prediction, arXiv:2004.10181.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(800, 2))
    >>> sets = np.stack([X[:, 0] < 1, X[:, 0] >= 1], axis=1)
    >>> y = np.zeros(800, dtype=int)
    >>> worst_slab_coverage(X, y, sets, delta=0.15, random_state=0).high < 0.5
    True
    """
    hit = covered(y_true, prediction, classes)
    rows = np.asarray(to_numpy(X), dtype=np.float64).reshape(len(hit), -1)
    check_finite(rows, "X")
    if hit.ndim != 1:
        raise ValueError(f"give the sets of one alpha, got {hit.shape[1]} levels")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta!r}")
    n_search = int(_SEARCH_SHARE * len(hit))
    least = int(np.ceil(delta * n_search))
    if len(hit) < _MIN_ROWS or least < 2:
        raise ValueError(
            f"{len(hit)} rows are too few to find and measure a slab of share {delta:g}; give "
            f"at least {max(_MIN_ROWS, int(np.ceil(2 / (delta * _SEARCH_SHARE))))}"
        )
    rng = numpy_generator(random_state)
    units = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / np.where(units > 0, units, 1.0)
    order = rng.permutation(len(hit))
    search, measure = order[:n_search], order[n_search:]
    directions = rng.normal(size=(rows.shape[1], check_positive_int(n_directions, "n_directions")))
    direction, low, high = _search(rows[search] @ directions, hit[search], least)
    along = rows[measure] @ directions[:, direction]
    inside = hit[measure][(along >= low) & (along <= high)]
    if len(inside) == 0:
        raise ValueError("no row fell in the slab that was found; raise delta or give more rows")
    found = clopper_pearson(int(inside.sum()), len(inside), level)
    share = len(inside) / len(measure)
    note = f"worst of {n_directions} slabs, {len(inside)} rows ({share:.0%}), clopper-pearson"
    return Interval(found.estimate, found.low, found.high, found.level, note)


def _search(along: np.ndarray, hit: np.ndarray, least: int) -> tuple[int, float, float]:
    """Return column and ends of the window of >= ``least`` rows with the lowest mean, exactly."""
    # Dinkelbach: subtract the best mean so far, find the smallest window sum of all columns, and
    # take that window's mean, until no window is below.
    order = np.argsort(along, axis=0)
    ranked = hit[order].astype(np.float64)
    n, columns = ranked.shape
    best, where = float(hit.mean()), (0, 0, n)
    while True:
        total = np.vstack([np.zeros(columns), np.cumsum(ranked - best, axis=0)])
        peak = np.maximum.accumulate(total[: n + 1 - least], axis=0)
        sums = total[least:] - peak
        end, column = divmod(int(sums.argmin()), columns)
        start = int(total[: end + 1, column].argmax())
        mean = float(ranked[start : end + least, column].mean())
        if mean >= best - 1e-12:
            break
        best, where = mean, (column, start, end + least)
    column, start, stop = where
    values = along[order[:, column], column]
    return column, float(values[start]), float(values[stop - 1])
