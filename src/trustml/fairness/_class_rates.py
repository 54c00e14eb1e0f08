"""Rates of more than two classes: each class against the rest, their mean, the worst of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.fairness._confidence import OfRows
from trustml.fairness._rates import BINARY_RATES, Decisions, rate_masks

MAX_CLASSES = 50

# name -> whether a larger value is better; None: neither, a group is judged by its distance to all
HIGHER_IS_BETTER: dict[str, bool | None] = {
    "selection_rate": True,
    "true_positive_rate": True,
    "false_positive_rate": False,
    "true_negative_rate": True,
    "false_negative_rate": False,
    "precision": True,
    "false_discovery_rate": False,
    "negative_predictive_value": True,
    "false_omission_rate": False,
    "base_rate": None,
    "accuracy": True,
    "zero_one_loss": False,
}

_JUDGED = tuple(r for r in BINARY_RATES if r not in {"selection_rate", "base_rate"})
CLASS_METRICS = (
    *(f"macro_{rate}" for rate in _JUDGED),
    *(f"worst_class_{rate}" for rate in _JUDGED),
)


def classes_of(decisions: Decisions) -> list[Any]:
    """Return the labels that occur, sorted where they can be."""
    present = set(decisions.y_true.tolist()) | set(decisions.y_pred.tolist())
    try:
        return sorted(present)
    except TypeError:  # mixed types have no order of their own
        return sorted(present, key=lambda label: (type(label).__name__, str(label)))


@dataclass(frozen=True)
class OverClasses:
    """The mean, or the worst, over the classes of a rate of each class against the rest.

    Takes integer codes of labels; NaN if the rate of any class is undefined, for an average over
    other classes cannot be compared.
    """

    rate: str
    worst: bool
    n_classes: int

    def __call__(self, true: np.ndarray, decided: np.ndarray) -> float:
        """Return the value for some rows."""
        k = self.n_classes
        table = np.bincount(true * k + decided, minlength=k * k).reshape(k, k)
        hit = table.diagonal()
        missed, wrong = table.sum(1) - hit, table.sum(0) - hit
        rest = len(true) - hit - missed - wrong
        counts = np.stack([hit, wrong, missed, rest])  # the cells of _ONE_EACH
        success, denominator = rate_masks(self.rate, _ONE_EACH)
        total = (counts * denominator[:, None]).sum(0)
        part = (counts * (success & denominator)[:, None]).sum(0)
        if (total == 0).any():
            return float("nan")
        values = part / total
        if not self.worst:
            return float(values.mean())
        return float(values.min() if HIGHER_IS_BETTER[self.rate] else values.max())


# One row of each cell: true and decided, decided only, true only, neither.
_TRUE, _DECIDED = np.array([1, 0, 1, 0]) == 1, np.array([1, 1, 0, 0]) == 1
_ONE_EACH = Decisions(_TRUE, _DECIDED, _TRUE, _DECIDED)


def class_metric(metric: str, name: str, decisions: Decisions) -> OfRows:
    """Return a metric of ``CLASS_METRICS`` as a function of rows."""
    if decisions.are_numbers:
        raise ValueError(f"metric {metric!r} needs class labels, got numbers with fractions")
    classes = classes_of(decisions)
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"metric {metric!r} needs at most {MAX_CLASSES} classes: {len(classes)}")
    code = {label: position for position, label in enumerate(classes)}
    columns = tuple(
        np.array([code[label] for label in column.tolist()])
        for column in (decisions.y_true, decisions.y_pred)
    )
    worst = metric.startswith("worst_class_")
    rate = metric.removeprefix("worst_class_" if worst else "macro_")
    return OfRows(name, OverClasses(rate, worst, len(classes)), columns)
