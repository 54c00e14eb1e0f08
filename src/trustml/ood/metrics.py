"""Measures of how well a score separates in-distribution from out-of-distribution rows.

Every function takes the scores of the two samples, higher = more out of distribution, and is
exact with ties. "FPR at 95 % TPR" has two meanings in the literature; both are here, under
names that say which rows are the positives.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustml.core.validation import check_alpha, check_choice, check_finite, to_numpy
from trustml.evidence import exact_alpha

__all__ = [
    "aupr",
    "auroc",
    "detection_rate_at_false_alarm",
    "fpr_at_95_tpr_id",
    "fpr_at_95_tpr_ood",
]

_TPR = 0.95


def auroc(scores_in: Any, scores_out: Any) -> float:
    """Return the area under the ROC curve: P(out > in) + P(out = in) / 2.

    Parameters
    ----------
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance, below 0.5 the score points the wrong way.

    Examples
    --------
    >>> auroc([0.0, 1.0], [1.0, 2.0])
    0.875
    """
    inside, outside = _two_samples(scores_in, scores_out)
    inside = np.sort(inside)
    below = np.searchsorted(inside, outside, side="left")
    not_above = np.searchsorted(inside, outside, side="right")
    return float((below + not_above).sum() / (2 * inside.size * outside.size))


def aupr(scores_in: Any, scores_out: Any, *, positive: str = "ood") -> float:
    """Return the average precision: the area under the precision-recall steps.

    Tied rows enter together, so the order of rows does not matter. The value depends on the
    share of the positives: compare it only between tests of equal composition.

    Parameters
    ----------
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.
    positive : {"ood", "id"}
        Which rows are to be found.

    Returns
    -------
    float
        In (0, 1]; chance is the share of the positives.

    Examples
    --------
    >>> aupr([0.0, 1.0], [2.0, 3.0])
    1.0
    """
    check_choice(positive, "positive", ("ood", "id"))
    inside, outside = _two_samples(scores_in, scores_out)
    hits, misses = (outside, inside) if positive == "ood" else (-inside, -outside)
    thresholds = np.unique(hits)[::-1]
    true = _count_at_least(hits, thresholds)
    false = _count_at_least(misses, thresholds)
    gained = np.diff(true, prepend=0)
    return float((gained * true / (true + false)).sum() / hits.size)


def fpr_at_95_tpr_ood(scores_in: Any, scores_out: Any) -> float:
    """Return the false-alarm rate when 95 % of out-of-distribution rows are detected.

    Positives are the OOD rows: of all thresholds that flag at least 95 % of them, the one
    with the fewest false alarms. This is the convention of OpenOOD and pytorch-ood.

    Parameters
    ----------
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.

    Returns
    -------
    float
        Share of in-distribution rows that are flagged, in [0, 1].

    See Also
    --------
    fpr_at_95_tpr_id : The other convention, a different number.

    Examples
    --------
    >>> fpr_at_95_tpr_ood([0.0, 0.0, 1.0, 2.0], [1.0, 3.0])
    0.5
    """
    inside, outside = _two_samples(scores_in, scores_out)
    needed = math.ceil(exact_alpha(_TPR) * outside.size)
    threshold = np.sort(outside)[outside.size - needed]
    return float(np.mean(inside >= threshold))


def fpr_at_95_tpr_id(scores_in: Any, scores_out: Any) -> float:
    """Return the share of OOD rows accepted when 95 % of in-distribution rows are accepted.

    Positives are the in-distribution rows: of all thresholds that accept at least 95 % of
    them, the one that accepts the fewest OOD rows. This is the convention of the ODIN and
    energy papers, and equals ``1 - detection_rate_at_false_alarm(..., alpha=0.05)``.

    Parameters
    ----------
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.

    Returns
    -------
    float
        Share of out-of-distribution rows that pass unnoticed, in [0, 1].

    See Also
    --------
    fpr_at_95_tpr_ood : The other convention, a different number.

    Examples
    --------
    >>> fpr_at_95_tpr_id([0.0, 0.0, 1.0, 2.0], [1.0, 3.0])
    0.5
    """
    inside, outside = _two_samples(scores_in, scores_out)
    needed = math.ceil(exact_alpha(_TPR) * inside.size)
    threshold = np.sort(inside)[needed - 1]
    return float(np.mean(outside <= threshold))


def detection_rate_at_false_alarm(scores_in: Any, scores_out: Any, alpha: float = 0.05) -> float:
    """Return the share of OOD rows detected when at most ``alpha`` of the others are flagged.

    Parameters
    ----------
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.
    alpha : float in (0, 1)
        Largest false-alarm rate allowed among ``scores_in``.

    Returns
    -------
    float
        In [0, 1]; higher is better.

    Examples
    --------
    >>> detection_rate_at_false_alarm([0.0, 0.0, 1.0, 2.0], [1.0, 3.0], alpha=0.25)
    0.5
    """
    alpha = check_alpha(alpha)
    inside, outside = _two_samples(scores_in, scores_out)
    allowed = math.floor(exact_alpha(alpha) * inside.size)
    threshold = np.sort(inside)[inside.size - 1 - allowed]
    return float(np.mean(outside > threshold))


def _two_samples(
    scores_in: Any, scores_out: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both score vectors as float64, checked."""
    checked = []
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        values = np.asarray(to_numpy(scores), dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(
                f"{name} must be a non-empty vector of scores, shape (n,); got shape "
                f"{values.shape}. Pass the scores of one detector for one sample."
            )
        check_finite(values, name)
        checked.append(values)
    return checked[0], checked[1]


def _count_at_least(values: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[Any]:
    """Return how many of ``values`` reach each threshold."""
    return values.size - np.searchsorted(np.sort(values), thresholds, side="left")
