"""Disparities between groups, with fairlearn's names, arguments and signs (unsigned).

A group in which a rate is undefined (no positives for a true positive rate) is left out with a
``SmallGroupWarning``. For intervals, and signed differences of any rate, see ``group_metrics``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.validation import check_choice
from trustml.fairness._groups import as_groups
from trustml.fairness._rates import Decisions, as_decisions, check_weights, rate_masks, share
from trustml.warnings import SmallGroupWarning

Method = Literal["between_groups", "to_overall"]

_METHODS = ("between_groups", "to_overall")


def rates_by_group(
    rate: str, decisions: Decisions, codes: np.ndarray, n_groups: int, weights: np.ndarray | None
) -> np.ndarray:
    """Return a named rate in each group, shape (n_groups,), NaN where no row counts."""
    success, counts = rate_masks(rate, decisions)
    w = np.ones(len(codes)) if weights is None else weights
    total = np.bincount(codes[counts], w[counts], minlength=n_groups)
    hit = success & counts
    part = np.bincount(codes[hit], w[hit], minlength=n_groups)
    values: np.ndarray = np.divide(part, total, out=np.full(n_groups, np.nan), where=total > 0)
    return values


def largest_difference(values: np.ndarray, overall: float | None = None) -> float:
    """Return max − min of the defined values, or the largest distance to ``overall``."""
    defined = values[np.isfinite(values)]
    if len(defined) < (2 if overall is None else 1):
        return math.nan
    if overall is None:
        return float(defined.max() - defined.min())
    return float(np.abs(defined - overall).max())


def smallest_ratio(values: np.ndarray, overall: float | None = None) -> float:
    """Return min / max of the defined values, or the smallest ratio with ``overall``."""
    defined = values[np.isfinite(values)]
    if len(defined) < (2 if overall is None else 1):
        return math.nan
    if overall is None:
        top = float(defined.max())
        return float(defined.min()) / top if top != 0 else math.nan
    if overall == 0:
        return math.nan
    ratios = defined / overall
    return float(np.where(ratios > 1, 1 / np.maximum(ratios, 1), ratios).min())


def _disparity(
    rate: str,
    aggregate: Callable[[np.ndarray, float | None], float],
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    method: str,
    sample_weight: Any,
    pos_label: Any,
) -> float:
    check_choice(method, "method", _METHODS)
    check_aligned(
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=sensitive_features,
        sample_weight=sample_weight,
    )
    decisions = as_decisions(y_true, y_pred, pos_label)
    groups = as_groups(sensitive_features, len(decisions.y_true))
    weights = check_weights(sample_weight, len(decisions.y_true))
    values = rates_by_group(rate, decisions, groups.codes, len(groups.labels), weights)
    undefined = [str(g) for g, v in zip(groups.labels, values, strict=True) if np.isnan(v)]
    if undefined:
        warnings.warn(
            f"{rate} is undefined in the groups {undefined}, which have no row that counts; they "
            "are left out of the comparison",
            SmallGroupWarning,
            stacklevel=4,
        )
    overall = share(rate, decisions, weights) if method == "to_overall" else None
    value = aggregate(values, overall)
    if np.isnan(value) and not undefined:
        warnings.warn(
            f"the ratio of {rate} is undefined: it is 0 in every group; NaN is returned",
            SmallGroupWarning,
            stacklevel=4,
        )
    return value


def _derived(rate: str, name: str) -> Callable[..., float]:
    kind = name.rpartition("_")[2]
    aggregate = largest_difference if kind == "difference" else smallest_ratio

    def disparity(
        y_true: Any,
        y_pred: Any,
        *,
        sensitive_features: Any,
        method: Method = "between_groups",
        sample_weight: Any = None,
        pos_label: Any = None,
    ) -> float:
        return _disparity(
            rate, aggregate, y_true, y_pred, sensitive_features, method, sample_weight, pos_label
        )

    words = rate.replace("_", " ")
    parity = 0.0 if kind == "difference" else 1.0
    extreme = "largest" if kind == "difference" else "smallest"
    disparity.__name__ = disparity.__qualname__ = name
    disparity.__doc__ = f"""Return the {extreme} {kind} of the {words} between groups, in [0, 1].

    {parity:g} is parity.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    method : {{"between_groups", "to_overall"}}
        Compare the extreme groups, or each group with everybody.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    pos_label : object or None
        The favourable label; None accepts {{0, 1}} and {{-1, 1}}, where it is 1.

    Returns
    -------
    float
        Unsigned; NaN, with a ``SmallGroupWarning``, if fewer than two groups have the rate.

    References
    ----------
    Hardt et al. (2016), Equality of opportunity in supervised learning, arXiv:1610.02413.
    Verma and Rubin (2018), Fairness definitions explained, section 3.

    Examples
    --------
    Groups of the same rows are at parity:

    >>> y, decided, sex = [1, 1, 0, 0] * 2, [1, 0, 1, 0] * 2, ["f"] * 4 + ["m"] * 4
    >>> {name}(y, decided, sensitive_features=sex)
    {parity}
    """
    return disparity


demographic_parity_difference = _derived("selection_rate", "demographic_parity_difference")
demographic_parity_ratio = _derived("selection_rate", "demographic_parity_ratio")
equal_opportunity_difference = _derived("true_positive_rate", "equal_opportunity_difference")
equal_opportunity_ratio = _derived("true_positive_rate", "equal_opportunity_ratio")
predictive_parity_difference = _derived("precision", "predictive_parity_difference")
predictive_parity_ratio = _derived("precision", "predictive_parity_ratio")
selection_rate_difference = _derived("selection_rate", "selection_rate_difference")
selection_rate_ratio = _derived("selection_rate", "selection_rate_ratio")
true_positive_rate_difference = _derived("true_positive_rate", "true_positive_rate_difference")
true_positive_rate_ratio = _derived("true_positive_rate", "true_positive_rate_ratio")
true_negative_rate_difference = _derived("true_negative_rate", "true_negative_rate_difference")
true_negative_rate_ratio = _derived("true_negative_rate", "true_negative_rate_ratio")
false_positive_rate_difference = _derived("false_positive_rate", "false_positive_rate_difference")
false_positive_rate_ratio = _derived("false_positive_rate", "false_positive_rate_ratio")
false_negative_rate_difference = _derived("false_negative_rate", "false_negative_rate_difference")
false_negative_rate_ratio = _derived("false_negative_rate", "false_negative_rate_ratio")
precision_difference = _derived("precision", "precision_difference")
precision_ratio = _derived("precision", "precision_ratio")
false_discovery_rate_difference = _derived(
    "false_discovery_rate", "false_discovery_rate_difference"
)
false_discovery_rate_ratio = _derived("false_discovery_rate", "false_discovery_rate_ratio")
negative_predictive_value_difference = _derived(
    "negative_predictive_value", "negative_predictive_value_difference"
)
negative_predictive_value_ratio = _derived(
    "negative_predictive_value", "negative_predictive_value_ratio"
)
false_omission_rate_difference = _derived("false_omission_rate", "false_omission_rate_difference")
false_omission_rate_ratio = _derived("false_omission_rate", "false_omission_rate_ratio")
accuracy_score_difference = _derived("accuracy", "accuracy_score_difference")
accuracy_score_ratio = _derived("accuracy", "accuracy_score_ratio")
zero_one_loss_difference = _derived("zero_one_loss", "zero_one_loss_difference")
zero_one_loss_ratio = _derived("zero_one_loss", "zero_one_loss_ratio")


def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    sample_weight: Any = None,
    agg: Literal["worst_case", "mean"] = "worst_case",
    pos_label: Any = None,
) -> float:
    """Return the larger of the true and false positive rate differences; 0 is parity.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    method : {"between_groups", "to_overall"}
        Compare the extreme groups, or each group with everybody.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    agg : {"worst_case", "mean"}
        The larger of the two differences, or their mean.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        Unsigned, in [0, 1]; NaN, with a warning, if a rate exists in fewer than two groups.

    References
    ----------
    Hardt et al. (2016), Equality of opportunity in supervised learning, arXiv:1610.02413.

    Examples
    --------
    >>> equalized_odds_difference(
    ...     [1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1], sensitive_features=list("aaabbb")
    ... )
    0.5
    """
    both = _odds(
        largest_difference,
        y_true,
        y_pred,
        sensitive_features,
        method,
        sample_weight,
        agg,
        pos_label,
    )
    return float(max(both) if agg == "worst_case" else np.mean(both))


def equalized_odds_ratio(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    sample_weight: Any = None,
    agg: Literal["worst_case", "mean"] = "worst_case",
    pos_label: Any = None,
) -> float:
    """Return the smaller of the true and false positive rate ratios; 1 is parity.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    method : {"between_groups", "to_overall"}
        Compare the extreme groups, or each group with everybody.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    agg : {"worst_case", "mean"}
        The smaller of the two ratios, or their mean.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    float
        Unsigned, in [0, 1]; NaN, with a warning, if a rate exists in fewer than two groups.

    References
    ----------
    Hardt et al. (2016), Equality of opportunity in supervised learning, arXiv:1610.02413.

    Examples
    --------
    >>> equalized_odds_ratio(
    ...     [1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 1, 0, 1, 1, 1, 0], sensitive_features=list("aaaabbbb")
    ... )
    0.5
    """
    rest = (sensitive_features, method, sample_weight, agg, pos_label)
    both = _odds(smallest_ratio, y_true, y_pred, *rest)
    return float(min(both) if agg == "worst_case" else np.mean(both))


def _odds(
    aggregate: Callable[[np.ndarray, float | None], float],
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    method: str,
    sample_weight: Any,
    agg: str,
    pos_label: Any,
) -> list[float]:
    check_choice(agg, "agg", ("worst_case", "mean"))
    both = [
        _disparity(
            rate, aggregate, y_true, y_pred, sensitive_features, method, sample_weight, pos_label
        )
        for rate in ("true_positive_rate", "false_positive_rate")
    ]
    # One undefined half leaves the comparison undefined: max and min must not depend on order.
    return [math.nan, math.nan] if any(math.isnan(value) for value in both) else both
