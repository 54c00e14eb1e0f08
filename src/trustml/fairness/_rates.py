"""Rates of a binary decision: each is a share of some of the rows.

A rate that has no rows to speak of (the true positive rate of a group without positives) is
undefined, and NaN here; reading it as 0 would invent a disparity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.validation import check_finite, check_same_length, to_numpy
from trustml.fairness._groups import _sorted_unique
from trustml.warnings import SmallGroupWarning


@dataclass(frozen=True)
class Decisions:
    """True and decided labels, as the user gave them and as booleans.

    ``true`` and ``decided`` are None when the labels are not binary and no ``pos_label`` was
    given: only what compares labels (accuracy) is then defined. ``favourable`` is the label that
    the user named, if any.
    """

    y_true: np.ndarray
    y_pred: np.ndarray
    true: np.ndarray | None
    decided: np.ndarray | None
    favourable: Any = None

    @property
    def are_numbers(self) -> bool:
        """Whether these are measurements rather than labels: floats with fractions."""
        both = self.y_true, self.y_pred
        return self.true is None and any(map(_has_fractions, both))


Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _all(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.ones(len(y), dtype=bool)


# name -> (rows that count as a success, rows that count at all), of true and decided booleans
_BINARY: dict[str, tuple[Mask, Mask]] = {
    "selection_rate": (lambda y, p: p, _all),
    "true_positive_rate": (lambda y, p: y & p, lambda y, p: y),
    "false_positive_rate": (lambda y, p: ~y & p, lambda y, p: ~y),
    "true_negative_rate": (lambda y, p: ~y & ~p, lambda y, p: ~y),
    "false_negative_rate": (lambda y, p: y & ~p, lambda y, p: y),
    "precision": (lambda y, p: y & p, lambda y, p: p),
    "false_discovery_rate": (lambda y, p: ~y & p, lambda y, p: p),
    "negative_predictive_value": (lambda y, p: ~y & ~p, lambda y, p: ~p),
    "false_omission_rate": (lambda y, p: y & ~p, lambda y, p: ~p),
    "base_rate": (lambda y, p: y, _all),
}
_ANY_LABEL: dict[str, Mask] = {
    "accuracy": lambda y, p: y == p,
    "zero_one_loss": lambda y, p: y != p,
}
BINARY_RATES = tuple(_BINARY)
RATES = (*_BINARY, *_ANY_LABEL)


def as_decisions(y_true: Any, y_pred: Any, pos_label: Any = None) -> Decisions:
    """Check the two label vectors and find the positive class.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,) or (n, 1)
        Labels, strings too.
    pos_label : object or None
        The favourable label; None accepts {0, 1}, {-1, 1} and booleans, where it is 1.

    Returns
    -------
    Decisions

    Raises
    ------
    ValueError
        If shapes differ, a value is missing, ``pos_label`` does not occur, or true and decided
        labels are in different codes.
    """
    check_aligned(y_true=y_true, y_pred=y_pred)
    true, pred = label_vector(y_true, "y_true"), label_vector(y_pred, "y_pred")
    check_same_length(y_true=true, y_pred=pred)
    _check_same_codes(true, pred)
    named, present = pos_label, list(dict.fromkeys([*true.tolist(), *pred.tolist()]))
    if pos_label is None:
        if not (set(present) <= {0, 1} or set(present) <= {-1, 1}):
            return Decisions(true, pred, None, None)
        pos_label = 1
    elif pos_label not in present and len(present) > 1:
        raise ValueError(
            f"pos_label {pos_label!r} is not among the labels {present[:10]} of y_true and y_pred"
        )
    return Decisions(true, pred, _equal(true, pos_label), _equal(pred, pos_label), named)


def against_rest(decisions: Decisions, label: Any) -> Decisions:
    """Return the same rows with one label as the favourable one."""
    y, p = decisions.y_true, decisions.y_pred
    return Decisions(y, p, _equal(y, label), _equal(p, label))


def rate_masks(rate: str, decisions: Decisions) -> tuple[np.ndarray, np.ndarray]:
    """Return (successes, denominator) as boolean rows of a named rate."""
    if rate in _ANY_LABEL:
        success = _ANY_LABEL[rate](decisions.y_true, decisions.y_pred)
        return success, np.ones(len(success), dtype=bool)
    success_of, counts_of = _BINARY[rate]
    if decisions.true is None or decisions.decided is None:
        labels = list(dict.fromkeys([*decisions.y_true.tolist(), *decisions.y_pred.tolist()]))
        raise ValueError(
            f"{rate} needs binary labels {{0, 1}} or {{-1, 1}}, got {labels[:10]}; pass pos_label= "
            "to say which label is the favourable one"
        )
    return success_of(decisions.true, decisions.decided), counts_of(
        decisions.true, decisions.decided
    )


def check_weights(sample_weight: Any, n: int) -> np.ndarray | None:
    """Return the weights as a float vector, or say what is wrong with them."""
    if sample_weight is None:
        return None
    given = label_vector(sample_weight, "sample_weight")
    if given.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight must hold numbers, got dtype {given.dtype}")
    weights = given.astype(np.float64)
    if len(weights) != n:
        raise ValueError(f"sample_weight must have {n} rows, got {len(weights)}")
    if (weights < 0).any():
        raise ValueError("sample_weight must not be negative")
    return weights


def share(rate: str, decisions: Decisions, weights: np.ndarray | None) -> float:
    """Return one rate over all the rows; NaN where no row counts."""
    success, counts = rate_masks(rate, decisions)
    w = np.ones(len(success)) if weights is None else weights
    total = float(w[counts].sum())
    return float(w[success & counts].sum()) / total if total > 0 else float("nan")


def _rate(name: str, meaning: str) -> Callable[..., float]:
    def rate(y_true: Any, y_pred: Any, sample_weight: Any = None, pos_label: Any = None) -> float:
        check_aligned(y_true=y_true, y_pred=y_pred, sample_weight=sample_weight)
        decisions = as_decisions(y_true, y_pred, pos_label)
        weights = check_weights(sample_weight, len(decisions.y_true))
        value = share(name, decisions, weights)
        if np.isnan(value):
            warnings.warn(
                f"{name} is undefined here, no row counts: {meaning}; NaN is returned",
                SmallGroupWarning,
                stacklevel=2,
            )
        return value

    rate.__name__ = rate.__qualname__ = name
    rate.__doc__ = f"""Return the {name.replace("_", " ")}: {meaning}.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sample_weight : array-like of shape (n,) or None
        Weights of the rows.
    pos_label : object or None
        The favourable label; None accepts {{0, 1}} and {{-1, 1}}, where it is 1.

    Returns
    -------
    float
        In [0, 1]; NaN, with a ``SmallGroupWarning``, where no row counts.
    """
    return rate


selection_rate = _rate("selection_rate", "the share of rows decided positive")
true_positive_rate = _rate("true_positive_rate", "of the positive rows, those decided positive")
true_negative_rate = _rate("true_negative_rate", "of the negative rows, those decided negative")
false_positive_rate = _rate("false_positive_rate", "of the negative rows, those decided positive")
false_negative_rate = _rate("false_negative_rate", "of the positive rows, those decided negative")


def count(y_true: Any, y_pred: Any) -> int:
    """Return the number of rows."""
    return check_same_length(
        y_true=label_vector(y_true, "y_true"), y_pred=label_vector(y_pred, "y_pred")
    )


def mean_prediction(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the (weighted) mean of ``y_pred``, in its unit; ``y_true`` is not looked at."""
    check_aligned(y_true=y_true, y_pred=y_pred, sample_weight=sample_weight)
    values = label_vector(y_pred, "y_pred").astype(np.float64)
    return float(np.average(values, weights=check_weights(sample_weight, len(values))))


def label_vector(values: Any, name: str) -> np.ndarray:
    """Return labels or numbers as a vector without missing values."""
    array = to_numpy(values)
    if np.ma.is_masked(array):
        raise ValueError(f"{name} has masked values, which are missing; drop these rows")
    array = np.asarray(array)
    if array.dtype.kind == "u":  # differences of unsigned numbers wrap around
        array = array.astype(np.int64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    check_finite(array, name)
    if array.dtype == object and any(v is None or v != v for v in array.tolist()):
        raise ValueError(f"{name} has missing values; drop these rows")
    return array


def _check_same_codes(true: np.ndarray, pred: np.ndarray) -> None:
    """Refuse labels that cannot be compared: text and numbers, or the codes of two encodings."""
    texts = [column.dtype.kind in "US" for column in (true, pred)]
    numbers = [column.dtype.kind in "biuf" for column in (true, pred)]
    ours, theirs = (set(column.tolist()) for column in (true, pred))
    # Labels that are constant may differ; numbers with fractions, or many values, are measurements.
    few = len(ours) <= 2 and len(theirs) <= 2 and not any(map(_has_fractions, (true, pred)))
    apart = not ours & theirs and max(len(ours), len(theirs)) > 1 and (few or not all(numbers))
    codes = {frozenset(ours), frozenset(theirs)}
    mixed = (any(texts) and any(numbers)) or codes == {frozenset((0, 1)), frozenset((-1, 1))}
    if ours and theirs and (apart or mixed):
        shown = [_sorted_unique(list(labels))[:5] for labels in (ours, theirs)]
        raise ValueError(
            f"y_true has the labels {shown[0]}, and y_pred has {shown[1]}, in another code: "
            "predictions must be labels as y_true has them, such as classes[codes]"
        )


def _has_fractions(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and bool((values != np.round(values)).any())


def _equal(labels: np.ndarray, value: Any) -> np.ndarray:
    return np.fromiter((label == value for label in labels.tolist()), bool, len(labels))
