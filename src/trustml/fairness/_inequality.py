"""How unequally decisions treat people: entropy of benefits, in all and between groups.

A row's benefit is b = 1 + decided - true: 2 for a favour without merit, 1 for a right decision,
0 for a merit without the favour.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.fairness._groups import as_groups
from trustml.fairness._rates import as_decisions
from trustml.warnings import SmallGroupWarning


def generalized_entropy_index(
    y_true: Any, y_pred: Any, alpha: float = 2, *, pos_label: Any = None
) -> float:
    r"""Return the generalized entropy index of the benefits :math:`b_i = 1 + \hat y_i - y_i`.

    With their mean :math:`\mu`,

    .. math:: \frac{1}{n \alpha (\alpha - 1)} \sum_i \left[ (b_i / \mu)^\alpha - 1 \right] ,

    the mean of :math:`(b/\mu) \ln (b/\mu)` at :math:`\alpha = 1` (Theil) and of
    :math:`-\ln (b/\mu)` at :math:`\alpha = 0` (mean log deviation), which are its limits.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    alpha : float
        The larger, the more the index looks at those who get most.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        At least 0, without unit; 0 if all benefits are equal. Infinite at ``alpha <= 0`` if there
        is a false negative, whose benefit is 0; NaN, with a ``SmallGroupWarning``, if every row is
        one.

    References
    ----------
    Speicher et al. (2018), A unified approach to quantifying algorithmic unfairness,
    arXiv:1807.00787.

    Examples
    --------
    >>> generalized_entropy_index([0, 0, 1, 1], [0, 0, 1, 1])
    0.0
    >>> generalized_entropy_index([0, 1], [1, 0])
    0.5
    """
    benefits = _benefits(y_true, y_pred, pos_label)
    return _mean_entropy(benefits, np.full(len(benefits), benefits.mean()), alpha)


def theil_index(y_true: Any, y_pred: Any, *, pos_label: Any = None) -> float:
    """Return the Theil index of the benefits: the generalized entropy index at ``alpha=1``.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        From 0, equal benefits, to ln(n).

    References
    ----------
    Speicher et al. (2018), arXiv:1807.00787.

    Examples
    --------
    >>> round(theil_index([0, 1], [1, 0]), 4)
    0.6931
    """
    return generalized_entropy_index(y_true, y_pred, 1, pos_label=pos_label)


def coefficient_of_variation(y_true: Any, y_pred: Any, *, pos_label: Any = None) -> float:
    """Return the standard deviation of the benefits over their mean.

    The square root of twice the generalized entropy index at ``alpha=2``.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        At least 0.

    References
    ----------
    Speicher et al. (2018), arXiv:1807.00787.

    Examples
    --------
    >>> coefficient_of_variation([0, 1], [1, 0])
    1.0
    """
    return math.sqrt(2 * generalized_entropy_index(y_true, y_pred, 2, pos_label=pos_label))


def between_group_generalized_entropy_index(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    alpha: float = 2,
    privileged: Any = None,
    pos_label: Any = None,
) -> float:
    """Return what would remain of the index if all had their group's mean benefit.

    Adds up with ``within_group_generalized_entropy_index`` to ``generalized_entropy_index``. The
    more groups, the larger it is: compare it for the same groups only.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    alpha : float
        As of ``generalized_entropy_index``.
    privileged : object or None
        Compare this group with all other rows together; None compares all groups.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        From 0, equal mean benefits, to the whole index.

    References
    ----------
    Speicher et al. (2018), arXiv:1807.00787.

    Examples
    --------
    >>> between_group_generalized_entropy_index(
    ...     [0, 1, 0, 1], [1, 0, 0, 1], sensitive_features=["f", "f", "m", "m"]
    ... )
    0.0
    """
    benefits, means = _with_group_means(y_true, y_pred, sensitive_features, privileged, pos_label)
    return _mean_entropy(means, np.full(len(means), benefits.mean()), alpha)


def within_group_generalized_entropy_index(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    alpha: float = 2,
    privileged: Any = None,
    pos_label: Any = None,
) -> float:
    """Return the part of the index that lies between members of the same group.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    alpha : float
        As of ``generalized_entropy_index``.
    privileged : object or None
        Two groups, this one and all other rows; None takes all groups.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        From 0 to the whole index; the rest lies between groups.

    References
    ----------
    Speicher et al. (2018), arXiv:1807.00787.

    Examples
    --------
    >>> within_group_generalized_entropy_index(
    ...     [0, 1, 0, 1], [1, 0, 0, 1], sensitive_features=["f", "f", "m", "m"]
    ... )
    0.25
    """
    benefits, means = _with_group_means(y_true, y_pred, sensitive_features, privileged, pos_label)
    return _mean_entropy(benefits, means, alpha, benefits.mean())


def _benefits(y_true: Any, y_pred: Any, pos_label: Any) -> np.ndarray:
    decisions = as_decisions(y_true, y_pred, pos_label)
    if decisions.true is None or decisions.decided is None:
        raise ValueError(
            "benefits 1 + decided - true need binary labels {0, 1} or {-1, 1}; pass pos_label= to "
            "say which label is the favourable one"
        )
    benefits: np.ndarray = 1.0 + decisions.decided - decisions.true
    return benefits


def _with_group_means(
    y_true: Any, y_pred: Any, sensitive_features: Any, privileged: Any, pos_label: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Benefits, and the mean benefit of each row's group."""
    check_aligned(y_true=y_true, y_pred=y_pred, sensitive_features=sensitive_features)
    benefits = _benefits(y_true, y_pred, pos_label)
    groups = as_groups(sensitive_features, len(benefits))
    codes = groups.codes
    if privileged is not None:
        codes = (codes == groups.index(privileged)).astype(np.int64)
    return benefits, (np.bincount(codes, benefits) / np.bincount(codes))[codes]


def _mean_entropy(
    values: np.ndarray, means: np.ndarray, alpha: float, unit: float | None = None
) -> float:
    """Entropy of values around means, in units of ``unit``, or of the means, that are all alike."""
    from scipy.special import xlogy

    if isinstance(alpha, (bool, np.bool_)) or not isinstance(alpha, (int, float, np.number)):
        raise TypeError(f"alpha must be a number, got {alpha!r}")
    alpha = float(alpha)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha}")
    mu = float(means[0]) if unit is None else unit
    if mu == 0:
        warnings.warn(
            "the generalized entropy index is undefined: every row is a false negative, and so "
            "without benefit; NaN is returned",
            SmallGroupWarning,
            stacklevel=3,
        )
        return math.nan
    apart = values != means  # the others add nothing, also where both are 0
    x, m = values[apart] / mu, means[apart] / mu
    with np.errstate(divide="ignore"):
        if alpha == 1:
            terms = xlogy(x, x / m)
        elif alpha == 0:
            terms = np.log(m) - np.log(x)
        else:
            terms = (x**alpha - m**alpha) / (alpha * (alpha - 1))
    return max(float(terms.sum()) / len(values), 0.0)
