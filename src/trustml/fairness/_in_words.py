"""Differences between groups in words: which group is below which."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.fairness._class_rates import classes_of
from trustml.fairness._groups import Groups
from trustml.fairness._rates import Decisions, against_rest
from trustml.fairness.metrics import largest_difference, rates_by_group

_MAX_CLASSES = 20  # of which each is compared with the rest, whenever a table is printed

_PARITY = {
    "demographic parity difference": ("selection_rate",),
    "equalized odds difference": ("true_positive_rate", "false_positive_rate"),
}


def parity_in_words(decisions: Decisions | None, groups: Groups) -> tuple[str, ...]:
    """Return demographic parity and equalized odds as two sentences; none if there are no classes.

    They are always said together, since what narrows one may widen the other. Of more than two
    classes each is compared with the rest, and the widest gap is said.

    Parameters
    ----------
    decisions : Decisions or None
        Labels; None for what is no decision.
    groups : Groups
        Of the same rows.

    Returns
    -------
    tuple of str
        Two sentences, or none.
    """
    if decisions is None or decisions.are_numbers:
        return ()
    views = {"": decisions}
    if decisions.true is None:
        classes = classes_of(decisions)
        if not 2 < len(classes) <= _MAX_CLASSES:
            return ()
        views = {f" of class {c!r}": against_rest(decisions, c) for c in classes}
    sentences = []
    for title, rates in _PARITY.items():
        candidates = [
            (rate.replace("_", " ") + words, rates_by_group(rate, view, *_codes(groups), None))
            for words, view in views.items()
            for rate in rates
        ]
        gaps = np.array([largest_difference(values) for _, values in candidates])
        if np.isnan(gaps).any():
            names = [name for (name, _), gap in zip(candidates, gaps, strict=True) if np.isnan(gap)]
            sentences.append(f"{title} undefined: fewer than two groups have a {names[0]}")
            continue
        name, values = candidates[int(gaps.argmax())]
        sentences.append(f"{title} {gaps.max():.4g}: {contrast(name, values, groups.labels)}")
    return tuple(sentences)


def contrast(name: str, values: np.ndarray, labels: tuple[Any, ...]) -> str:
    """Say which group is lowest and which is highest."""
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    if values[low] == values[high]:
        return f"{name} the same, {values[low]:.4g}"
    return f"{name} of {labels[low]} ({values[low]:.4g}) below {labels[high]} ({values[high]:.4g})"


def _codes(groups: Groups) -> tuple[np.ndarray, int]:
    return groups.codes, len(groups.labels)
