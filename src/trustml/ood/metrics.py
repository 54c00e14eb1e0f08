"""Measures of how well a score separates in-distribution from out-of-distribution rows.

Every function takes the scores of the two samples, higher = more out of distribution, and is
exact with ties, in O(n log n). "FPR at 95 % TPR" has two meanings in the literature; both are
here, under names that say which rows are the positives. `auroc_interval` and `auroc_difference`
(DeLong) say how sure an AUROC and a comparison are, `interval` any other measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustml.core.random import RandomState
from trustml.core.validation import check_alpha, check_choice, check_finite, to_numpy
from trustml.evidence import Interval, auroc_difference, auroc_interval, bootstrap, exact_alpha

__all__ = [
    "aupr",
    "aurc",
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "detection_rate_at_false_alarm",
    "fpr_at_95_tpr_id",
    "fpr_at_95_tpr_ood",
    "interval",
    "oscr",
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


def oscr(scores_in: Any, scores_out: Any, correct: Any) -> float:
    """Return the open-set classification rate: classified right and told from OOD rows.

    The area under the curve of the correct classification rate (in-distribution rows that are
    accepted and classified correctly) against the share of OOD rows accepted, over thresholds;
    tied rows enter together, along a straight line. It is P(right, and in < out), ties half.

    Parameters
    ----------
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.
    correct : bool array of shape (n,)
        Whether the model classifies each in-distribution row correctly.

    Returns
    -------
    float
        From 0 to the accuracy on the in-distribution rows, and at most their AUROC.

    Raises
    ------
    ValueError
        If ``correct`` is not one 0 or 1 for each in-distribution row.

    References
    ----------
    Dhamija, Günther and Boult (2018), Reducing network agnostophobia, arXiv:1811.04110.

    Examples
    --------
    >>> oscr([0.0, 1.0], [2.0, 3.0], correct=[True, False])
    0.5
    """
    inside, outside = _two_samples(scores_in, scores_out)
    right = np.asarray(to_numpy(correct))
    if right.shape != inside.shape or not np.isin(right, (0, 1)).all():
        raise ValueError(
            f"correct must say of each of the {inside.size} in-distribution rows whether it is "
            f"classified correctly, True or False; got {right.dtype} of shape {right.shape}"
        )
    right = right.astype(bool)
    return float(right.mean() * auroc(inside[right], outside)) if right.any() else 0.0


def aurc(scores: Any, losses: Any, *, excess: bool = False) -> float:
    """Return the area under the risk-coverage curve: the price of abstaining on high scores.

    The mean over k = 1..n of the mean loss of the k rows with the lowest scores; of tied rows,
    its expectation over their order, so the order of rows does not matter.

    Parameters
    ----------
    scores : array of shape (n,)
        Higher = rather abstain.
    losses : array of shape (n,)
        Of the model's answers: 1 for an error and 0 otherwise, or any real loss.
    excess : bool
        Subtract the area of a perfect score, which orders the rows by their loss.

    Returns
    -------
    float
        In the unit of the losses; lower is better.

    Raises
    ------
    ValueError
        If there is not one finite loss for each score.

    References
    ----------
    Geifman, Uziel and El-Yaniv (2019), Bias-reduced uncertainty estimation for deep neural
    classifiers, arXiv:1805.08206.

    Examples
    --------
    >>> aurc([0.0, 1.0], [0.0, 1.0])
    0.25
    """
    uncertain, loss = _vector(scores, "scores"), _vector(losses, "losses")
    if uncertain.size != loss.size:
        raise ValueError(f"one loss a score, got {uncertain.size} scores and {loss.size} losses")
    _, code = np.unique(uncertain, return_inverse=True)
    shared = (np.bincount(code, weights=loss) / np.bincount(code))[code]
    kept = np.arange(1, loss.size + 1)
    area = float(np.mean(np.cumsum(shared[np.argsort(code, kind="stable")]) / kept))
    return area - float(np.mean(np.cumsum(np.sort(loss)) / kept)) if excess else area


def interval(
    measure: Callable[..., float],
    scores_in: Any,
    scores_out: Any,
    *,
    correct: Any = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    method: str = "bca",
    random_state: RandomState = 0,
) -> Interval:
    """Return the bootstrap interval of a measure; rows are drawn within each sample.

    Parameters
    ----------
    measure : callable (scores_in, scores_out) -> float
        Such as those of this module; `oscr` is also given ``correct``.
    scores_in, scores_out : array of shape (n,), (m,)
        Scores of in-distribution and of out-of-distribution rows.
    correct : bool array of shape (n,) or None
        The measure's third argument, if it has one; drawn together with ``scores_in``.
    level : float in (0, 1)
        Confidence level.
    n_resamples, method
        As for `trustml.evidence.bootstrap`.
    random_state : int, Generator or None
        Seed of the draws.

    Returns
    -------
    Interval

    See Also
    --------
    auroc_interval : Of the AUROC in closed form, with a width for perfect separation too.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = interval(fpr_at_95_tpr_id, rng.normal(size=90), rng.normal(3, 1, 90))
    >>> found.low < found.estimate < found.high
    True
    """
    inside, outside = _two_samples(scores_in, scores_out)
    n = inside.size
    flags = np.zeros(n + outside.size)
    if correct is not None:
        flags[:n] = _vector(correct, "correct")
    strange = np.arange(flags.size) >= n

    def resampled(scores: NDArray[Any], out: NDArray[Any], right: NDArray[Any]) -> float:
        third = () if correct is None else (right[~out],)
        return measure(scores[~out], scores[out], *third)

    found: Interval = bootstrap(
        resampled,
        np.concatenate([inside, outside]),
        strange,
        flags,
        level=level,
        n_resamples=n_resamples,
        method=method,
        strata=strange,
        random_state=random_state,
    )
    return found


def _two_samples(
    scores_in: Any, scores_out: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both score vectors as float64, checked."""
    return _vector(scores_in, "scores_in"), _vector(scores_out, "scores_out")


def _vector(scores: Any, name: str) -> NDArray[np.float64]:
    values = np.asarray(to_numpy(scores), dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"{name} must be a non-empty vector, shape (n,); got shape {values.shape}. Pass the "
            "scores of one detector for one sample."
        )
    check_finite(values, name)
    return values


def _count_at_least(values: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[Any]:
    """Return how many of ``values`` reach each threshold."""
    return values.size - np.searchsorted(np.sort(values), thresholds, side="left")
