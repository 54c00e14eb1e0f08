"""Coverage, overall and by group, and the size of sets and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.conformal._labels import columns_of
from trustml.core.results import Result
from trustml.core.validation import check_positive_int, to_numpy
from trustml.evidence import clopper_pearson, exact_alpha


def covered(y_true: Any, prediction: Any, classes: Any = None) -> np.ndarray:
    """Return which rows are covered: bool (n,), or (n, m) for m levels.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c[, m]), or float array of shape (n, 2[, m])
        Sets from ``predict_set``, or intervals from ``predict_interval``.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.

    Returns
    -------
    bool ndarray of shape (n,) or (n, m)

    Raises
    ------
    ValueError
        If the prediction is neither sets nor intervals.
    """
    sets = np.asarray(to_numpy(prediction))
    if sets.ndim not in (2, 3) or len(sets) == 0:
        raise ValueError(
            "the prediction must be sets (n, c[, m]) or intervals (n, 2[, m]) with rows, got shape "
            f"{sets.shape}; the order is (y_true, prediction)"
        )
    if sets.dtype != bool:
        return _inside(np.asarray(to_numpy(y_true)), sets)
    column = columns_of(y_true, sets.shape[0], sets.shape[1], classes)
    inside: np.ndarray = sets[np.arange(len(sets)), column]
    return inside


def coverage(y_true: Any, prediction: Any, classes: Any = None) -> Any:
    """Return the share of rows whose set or interval holds the truth.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c[, m]), or float array of shape (n, 2[, m])
        Sets from ``predict_set``, or intervals from ``predict_interval``.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.

    Returns
    -------
    float, or array of shape (m,)
        In [0, 1]. A correct split predictor shows values in
        `trustml.evidence.beta_binomial_band`.

    Examples
    --------
    >>> coverage([0, 1], [[True, False], [True, False]])
    0.5
    """
    return _share(covered(y_true, prediction, classes))


def set_size(sets: Any) -> Any:
    """Return the mean number of labels in a set.

    Parameters
    ----------
    sets : bool array of shape (n, c) or (n, c, m)
        From ``predict_set``.

    Returns
    -------
    float, or array of shape (m,)
        From 0 to c.

    Raises
    ------
    ValueError
        If these are no sets.

    Examples
    --------
    >>> set_size([[True, False], [True, True]])
    1.5
    """
    array = np.asarray(to_numpy(sets))
    if array.dtype != bool or array.ndim not in (2, 3) or len(array) == 0:
        raise ValueError(f"sets must be bool (n, c[, m]), got {array.dtype} of shape {array.shape}")
    return _share(array.sum(axis=1))


def interval_width(intervals: Any) -> Any:
    """Return the mean width of the intervals, in the unit of y.

    Parameters
    ----------
    intervals : array of shape (n, 2) or (n, 2, m)
        From ``predict_interval``.

    Returns
    -------
    float, or array of shape (m,)
        +inf if an interval is unbounded.

    Raises
    ------
    ValueError
        If these are no intervals.

    Examples
    --------
    >>> interval_width([[0.0, 1.0], [2.0, 4.0]])
    1.5
    """
    array = np.asarray(to_numpy(intervals))
    if array.ndim not in (2, 3) or len(array) == 0 or array.shape[1] != 2 or array.dtype == bool:
        raise ValueError(f"intervals must be (n, 2[, m]), got {array.dtype} of shape {array.shape}")
    return _share(array[:, 1] - array[:, 0])


@dataclass(frozen=True, eq=False, repr=False)
class GroupCoverage(Result):
    """Coverage of each group with its exact confidence interval.

    Attributes
    ----------
    groups : ndarray of shape (g,)
        Sorted group labels.
    n : ndarray of shape (g,)
        Rows of each.
    coverage, low, high : ndarrays of shape (g,)
        Share covered and the ends of its Clopper-Pearson interval.
    level : float
        Confidence level of each interval.
    """

    groups: np.ndarray
    n: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float

    def _columns(self) -> dict[str, Any]:
        return {
            "group": self.groups,
            "n": self.n,
            "coverage": self.coverage,
            "low": self.low,
            "high": self.high,
        }


def coverage_by_group(
    y_true: Any, prediction: Any, groups: Any = None, classes: Any = None, level: float = 0.95
) -> GroupCoverage:
    """Return the coverage within each group of rows.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at one alpha.
    groups : array of shape (n,) or None
        Group of each row; None: its label.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of each group's interval.

    Returns
    -------
    GroupCoverage

    Raises
    ------
    ValueError
        If there are several levels of alpha, or ``groups`` has the wrong shape.

    Examples
    --------
    >>> sets = [[True, False], [True, False], [True, True]]
    >>> coverage_by_group([0, 1, 1], sets, groups=["a", "b", "b"]).coverage
    array([1. , 0.5])
    """
    hit = one_level(covered(y_true, prediction, classes))
    labels = np.asarray(to_numpy(y_true if groups is None else groups))
    if labels.shape != hit.shape:
        raise ValueError(f"groups must have shape {hit.shape}, got {labels.shape}")
    found, code = np.unique(labels.astype(str) if labels.dtype == object else labels,
                            return_inverse=True)  # fmt: skip
    n, hits = np.bincount(code), np.bincount(code, weights=hit).astype(int)
    ends = np.array([tuple(clopper_pearson(k, m, level)) for k, m in zip(hits, n, strict=True)])
    return GroupCoverage(found, n, hits / n, ends[:, 0], ends[:, 1], float(level))


def coverage_gap(
    y_true: Any, prediction: Any, groups: Any = None, alpha: float = 0.1, classes: Any = None
) -> float:
    """Return the mean over groups of abs(coverage - (1 - alpha)), each group counting the same.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at ``alpha``.
    groups : array of shape (n,) or None
        Group of each row; None: its label (the CovGap of class-conditional coverage).
    alpha : float in (0, 1)
        Error rate that was asked for.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.

    Returns
    -------
    float
        In [0, 1]; sampling alone gives about 0.8 sqrt(alpha (1 - alpha) / rows a group).

    References
    ----------
    Ding, Angelopoulos, Bates, Jordan and Tibshirani (2023), Class-conditional conformal
    prediction with many classes, arXiv:2306.09335.

    Examples
    --------
    >>> sets = [[True, False], [True, False], [True, True]]
    >>> round(coverage_gap([0, 1, 1], sets, alpha=0.1), 6)
    0.25
    """
    by_group = coverage_by_group(y_true, prediction, groups, classes)
    return float(np.abs(by_group.coverage - float(1 - exact_alpha(alpha))).mean())


def size_stratified_coverage(
    y_true: Any, prediction: Any, n_bins: int = 5, min_rows: int = 20, classes: Any = None
) -> float:
    """Return the lowest coverage among rows whose sets are of similar size.

    Far below 1 - alpha means that small sets are too sure of themselves.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at one alpha.
    n_bins : int
        Bins of about equal numbers of rows, by size; equal sizes stay together.
    min_rows : int
        Smaller bins join their neighbour: a few rows would always show a low coverage.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Angelopoulos, Bates, Malik and Jordan (2021), Uncertainty sets for image classifiers using
    conformal prediction, arXiv:2009.14193, section 4.

    Examples
    --------
    >>> sets = [[True, False]] * 40 + [[True, True]] * 40
    >>> size_stratified_coverage([0] * 30 + [1] * 50, sets)
    0.75
    """
    hit, size = one_level(covered(y_true, prediction, classes)), sizes(prediction)
    least = max(check_positive_int(min_rows, "min_rows"),
                -(-len(hit) // check_positive_int(n_bins, "n_bins")))  # fmt: skip
    order = np.argsort(size, kind="stable")
    # A bin ends where it has its rows and the size changes; a short last bin joins the one before.
    starts = [0]
    for i in range(1, len(order)):
        changes = size[order[i]] != size[order[i - 1]]
        if changes and i - starts[-1] >= least and len(order) - i >= min_rows:
            starts.append(i)
    return float(min(part.mean() for part in np.split(hit[order], starts[1:])))


def _inside(y: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    if y.shape != (len(intervals),):
        raise ValueError(f"y_true must have shape ({len(intervals)},), got {y.shape}")
    if intervals.shape[1] != 2 or np.isnan(intervals.astype(float)).any():
        raise ValueError(
            f"intervals must be (n, 2[, m]) without NaN, got shape {intervals.shape}; sets must be "
            "boolean"
        )
    values = y.astype(float).reshape(-1, *[1] * (intervals.ndim - 2))
    inside: np.ndarray = (intervals[:, 0] <= values) & (values <= intervals[:, 1])
    return inside


def sizes(prediction: Any) -> np.ndarray:
    """Return the number of labels of each set, or the width of each interval."""
    array = np.asarray(to_numpy(prediction))
    size: np.ndarray = array.sum(axis=1) if array.dtype == bool else array[:, 1] - array[:, 0]
    return size


def one_level(hit: np.ndarray) -> np.ndarray:
    """Return what `covered` found, if it is of one alpha.

    Returns
    -------
    bool ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are several levels.
    """
    if hit.ndim != 1:
        raise ValueError(
            f"give the sets of one alpha, got {hit.shape[1]} levels; index the last axis"
        )
    return hit


def _share(values: np.ndarray) -> Any:
    mean = values.mean(axis=0)
    return float(mean) if mean.ndim == 0 else mean
