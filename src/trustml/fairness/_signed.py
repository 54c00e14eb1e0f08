"""Signed comparisons of all other rows with a privileged group, with AIF360's names and signs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.fairness._groups import as_groups
from trustml.fairness._rates import as_decisions, check_weights
from trustml.fairness.metrics import rates_by_group
from trustml.warnings import SmallGroupWarning


def average_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    privileged: Any,
    sample_weight: Any = None,
    pos_label: Any = None,
) -> float:
    """Return the mean of the signed differences of the true and of the false positive rate.

    All rows outside the privileged group, taken together, minus that group. The two differences
    can cancel: 0 is no proof of equalized odds, see ``average_abs_odds_difference``.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    privileged : object
        The group that all others are compared with.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        In [-1, 1]; negative: the others are selected less often than the privileged. NaN, with a
        ``SmallGroupWarning``, if a rate is undefined.

    References
    ----------
    Bellamy et al. (2018), AI Fairness 360, arXiv:1810.01943.

    Examples
    --------
    >>> average_odds_difference(
    ...     [1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 1, 0],
    ...     sensitive_features=list("ffffmmmm"), privileged="m",
    ... )
    -0.5
    """
    rest = sensitive_features, privileged, sample_weight, pos_label
    return float(np.mean(_others_minus_privileged(_ODDS, y_true, y_pred, *rest)))


def average_abs_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    privileged: Any,
    sample_weight: Any = None,
    pos_label: Any = None,
) -> float:
    """Return the mean of the absolute differences of the true and of the false positive rate.

    All rows outside the privileged group, taken together, against that group.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    privileged : object
        The group that all others are compared with.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        In [0, 1]; 0 is equalized odds. NaN, with a ``SmallGroupWarning``, if a rate is undefined.

    References
    ----------
    Bellamy et al. (2018), AI Fairness 360, arXiv:1810.01943.

    Examples
    --------
    >>> average_abs_odds_difference(
    ...     [1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1, 1, 0],
    ...     sensitive_features=list("ffffmmmm"), privileged="m",
    ... )
    0.5
    """
    rest = sensitive_features, privileged, sample_weight, pos_label
    return float(np.mean(np.abs(_others_minus_privileged(_ODDS, y_true, y_pred, *rest))))


def average_predictive_value_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    privileged: Any,
    sample_weight: Any = None,
    pos_label: Any = None,
) -> float:
    """Return the mean of the signed differences of precision and of the false omission rate.

    All rows outside the privileged group, taken together, minus that group: do the same decisions
    mean the same chance of a positive label?

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    privileged : object
        The group that all others are compared with.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        In [-1, 1]. NaN, with a ``SmallGroupWarning``, if a rate is undefined.

    References
    ----------
    Bellamy et al. (2018), AI Fairness 360, arXiv:1810.01943.

    Examples
    --------
    >>> average_predictive_value_difference(
    ...     [1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 1, 0, 1, 1, 0, 0],
    ...     sensitive_features=list("ffffmmmm"), privileged="m",
    ... )
    0.0
    """
    rest = sensitive_features, privileged, sample_weight, pos_label
    return float(np.mean(_others_minus_privileged(_VALUES, y_true, y_pred, *rest)))


_ODDS = ("true_positive_rate", "false_positive_rate")
_VALUES = ("precision", "false_omission_rate")


def _others_minus_privileged(
    rates: tuple[str, ...],
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    privileged: Any,
    sample_weight: Any,
    pos_label: Any,
) -> np.ndarray:
    check_aligned(
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=sensitive_features,
        sample_weight=sample_weight,
    )
    decisions = as_decisions(y_true, y_pred, pos_label)
    groups = as_groups(sensitive_features, len(decisions.y_true))
    weights = check_weights(sample_weight, len(decisions.y_true))
    inside = (groups.codes == groups.index(privileged)).astype(np.int64)
    pairs = np.array([rates_by_group(rate, decisions, inside, 2, weights) for rate in rates])
    if np.isnan(pairs).any():
        missing = [rate for rate, pair in zip(rates, pairs, strict=True) if np.isnan(pair).any()]
        warnings.warn(
            f"{missing} are undefined in the group {privileged!r} or outside it, where no row "
            "counts; NaN is returned",
            SmallGroupWarning,
            stacklevel=3,
        )
    apart: np.ndarray = pairs[:, 0] - pairs[:, 1]
    return apart
