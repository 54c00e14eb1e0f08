"""Prediction sets and intervals, group by group: do they cover, and how large are they."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.random import RandomState
from trustml.core.validation import check_finite, check_same_length, to_numpy
from trustml.fairness._confidence import OfRows, RowMetric
from trustml.fairness._group_metrics import GroupMetrics, assemble
from trustml.fairness._groups import as_groups
from trustml.fairness._metric_names import Chosen, Masks
from trustml.fairness._rates import label_vector
from trustml.fairness._resampled import mean_of_known


def prediction_set_metrics(
    y_true: Any,
    sets: Any,
    *,
    sensitive_features: Any,
    classes: Any = None,
    privileged: Any = None,
    random_state: RandomState = None,
) -> GroupMetrics:
    """Return coverage and size of prediction sets or intervals in each group, with intervals.

    Marginal coverage of 90 % can hide a group that is covered 70 % of the time; and equal coverage
    is bought, for a group that is predicted badly, with larger sets.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Labels, or numbers for intervals.
    sets : bool array of shape (n, c), or numbers of shape (n, 2)
        Which classes are in each row's set, or the lower and upper ends of its interval.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    classes : array-like of shape (c,), optional
        Labels in the order of the columns of sets; None: 0..c-1.
    privileged : object, optional
        The group that signed differences are relative to; None: the first of the sorted groups.
    random_state : int, Generator or None
        Seed of bootstrap intervals of sizes.

    Returns
    -------
    GroupMetrics
        Of sets "coverage", "set_size" (mean number of classes) and the shares "empty" and
        "singleton"; of intervals "coverage", "interval_width" (mean of those with two ends, in the
        unit of y) and "unbounded", the share of the others.

    Notes
    -----
    A ``ValueError`` says what is wrong if shapes differ, an end is NaN or below the other, or a
    label is not among the classes.

    References
    ----------
    Romano et al. (2020), With malice toward none: assessing uncertainty via equalized coverage,
    arXiv:1908.05428.

    Examples
    --------
    >>> import numpy as np
    >>> y, sets = np.tile([0, 1], 40), np.tile([[True, False], [True, True]], (40, 1))
    >>> g = prediction_set_metrics(y, sets, sensitive_features=np.repeat(["f", "m"], 40))
    >>> g.overall["coverage"], g.overall["set_size"]
    (1.0, 1.5)
    """
    check_aligned(y_true=y_true, sets=sets, sensitive_features=sensitive_features)
    true, given = label_vector(y_true, "y_true"), _as_array(sets)
    n = check_same_length(y_true=true, sets=given)
    everyone = np.ones(n, dtype=bool)
    rates: dict[str, Masks]
    names: tuple[str, ...]
    if given.dtype == bool:
        covered = _in_sets(true, given, classes)
        size = given.sum(1)
        rates = {
            "coverage": (covered, everyone),
            "empty": (size == 0, everyone),
            "singleton": (size == 1, everyone),
        }
        name, names = "set_size", ("coverage", "set_size", "empty", "singleton")
    else:
        covered, size = _in_intervals(true, given)
        unbounded = np.isinf(size)
        rates = {"coverage": (covered, everyone), "unbounded": (unbounded, everyone)}
        name, names = "interval_width", ("coverage", "interval_width", "unbounded")
        size = np.where(unbounded, np.nan, size)
    groups = as_groups(sensitive_features, n)
    if privileged is not None:
        groups.index(privileged)
    numbers = size.astype(np.float64)
    ends = (0.0, float(given.shape[1])) if name == "set_size" else _constant(numbers)
    others: dict[str, RowMetric] = {name: OfRows(name, mean_of_known, (numbers, numbers), ends)}
    return assemble(groups, Chosen(names, rates, others), privileged, random_state, None)


def _constant(width: np.ndarray) -> tuple[float, float] | None:
    """Return the range of widths that are one number but for rounding; others have no known one."""
    known = width[~np.isnan(width)]
    if not len(known) or np.ptp(known) > 1e-9 * np.abs(known).max():
        return None
    return float(known.min()), float(known.max())


def _as_array(sets: Any) -> np.ndarray:
    how = "pass a bool array (n, c): column j says whether class j is in the set"
    try:
        given = np.asarray(to_numpy(sets))
    except ValueError as error:
        raise ValueError(f"sets must have rows of one length; {how}") from error
    if given.dtype == object and all(isinstance(v, (bool, np.bool_)) for v in given.flat):
        return given.astype(bool)
    if given.dtype.kind in "OUS":
        raise ValueError(f"sets must be bool, or intervals of numbers, got labels; {how}")
    if given.dtype.kind in "iu" and np.isin(given, (0, 1)).all():
        raise ValueError(
            "sets holds the integers 0 and 1: pass bool if they say which classes are in each set, "
            "sets.astype(bool), or floats if they are ends of intervals"
        )
    return given


def _in_sets(true: np.ndarray, sets: np.ndarray, classes: Any) -> np.ndarray:
    if sets.ndim != 2 or sets.shape[1] == 0:
        raise ValueError(f"sets must have shape (n, c), got {sets.shape}")
    labels = list(range(sets.shape[1])) if classes is None else to_numpy(classes).tolist()
    if len(labels) != sets.shape[1]:
        raise ValueError(f"classes has {len(labels)} labels for {sets.shape[1]} columns of sets")
    column = {label: j for j, label in enumerate(labels)}
    unknown = [label for label in dict.fromkeys(true.tolist()) if label not in column]
    if unknown:
        raise ValueError(
            f"y_true has the labels {unknown[:5]}, which are not among the classes {labels[:10]}; "
            "pass classes= in the order of the columns"
        )
    inside: np.ndarray = sets[np.arange(len(true)), [column[label] for label in true.tolist()]]
    return inside


def _in_intervals(true: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iuf":
        raise ValueError(
            f"sets must be bool (n, c) or intervals of numbers (n, 2), got {ends.dtype} "
            f"{ends.shape}"
        )
    if true.dtype.kind not in "biuf":
        raise ValueError(f"intervals need numbers as y_true, got dtype {true.dtype}")
    low, high = ends.T.astype(np.float64)
    check_finite(np.where(np.isinf(ends), 0.0, ends), "sets")  # ends may be infinite, not NaN
    if (low > high).any():
        row = int(np.flatnonzero(low > high)[0])
        raise ValueError(f"the interval of row {row} ends below its start: {ends[row].tolist()}")
    return (low <= true) & (true <= high), high - low
