"""Metrics of rows that are no rates: of scores, and of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.core.validation import check_finite, frame_columns, to_numpy
from trustml.fairness import _calibration
from trustml.fairness._groups import _sorted_unique
from trustml.fairness._rates import Decisions

# (positive rows as booleans, scores) -> value
ScoreMetric = Callable[[np.ndarray, np.ndarray], float]


def roc_auc(true: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN if one class is missing."""
    positives = int(true.sum())
    if positives in (0, len(true)):
        return float("nan")
    _, rank, ties = np.unique(score, return_inverse=True, return_counts=True)
    mid = np.cumsum(ties) - (ties - 1) / 2
    wins = mid[rank][true].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(true) - positives)))


def mean_score(true: np.ndarray, score: np.ndarray) -> float:
    """Mean score, whatever the labels."""
    return float(score.mean())


def mean_error(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of predicted minus true."""
    return float((predicted - true).mean())


def mean_absolute_error(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean distance of predicted and true."""
    return float(np.abs(predicted - true).mean())


def mean_squared_error(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean squared distance of predicted and true."""
    return float(((predicted - true) ** 2).mean())


def log_losses(true: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return -log probability of each label; probabilities of 0 count as the smallest spacing."""
    least = np.finfo(np.float64).eps
    said = np.clip(np.where(true, score, 1 - score), least, 1 - least)
    losses: np.ndarray = -np.log(said)
    return losses


def log_loss(true: np.ndarray, score: np.ndarray) -> float:
    """Mean -log probability of the label."""
    return float(log_losses(true, score).mean())


SCORE_METRICS: dict[str, ScoreMetric] = {
    "mean_score": mean_score,
    "brier_score": mean_squared_error,
    "calibration_in_the_large": mean_error,
    "calibration_error": _calibration.calibration_error,
    "debiased_calibration_error": _calibration.debiased_calibration_error,
    "balance_positive_class": _calibration.balance_positive_class,
    "balance_negative_class": _calibration.balance_negative_class,
    "log_loss": log_loss,
    "roc_auc": roc_auc,
}
PROBABILITY_METRICS = ("calibration_error", "debiased_calibration_error", "log_loss")

# (true numbers, predicted numbers) -> value, in their unit or its square
NUMBER_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean_prediction": mean_score,
    "mean_error": mean_error,
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
}


def check_probabilities(score: np.ndarray, metric: str) -> None:
    """Refuse scores outside [0, 1]."""
    if score.min() < 0 or score.max() > 1:
        raise ValueError(
            f"metric {metric!r} needs probabilities as y_score, got values from {score.min():g} to "
            f"{score.max():g}"
        )


def as_score(y_score: Any, decisions: Decisions) -> np.ndarray:
    """Return the score of the favourable class as (n,) float64, or of more classes as (n, c)."""
    n, score = len(decisions.y_true), to_numpy(y_score)
    if score.dtype.kind not in "biuf":
        raise TypeError(f"y_score must hold numbers, got dtype {score.dtype}")
    if score.ndim == 2 and score.shape[1] > 0:
        score = _of_labels(score, frame_columns(y_score) or [], decisions)
    if score.ndim not in (1, 2) or len(score) != n or 0 in score.shape:
        raise ValueError(
            f"y_score must have shape ({n},), probabilities of the favourable class, ({n}, 2), or "
            f"({n}, c) for c classes, got {score.shape}"
        )
    check_finite(score, "y_score")
    return score.astype(np.float64)


def _of_labels(score: np.ndarray, names: list[str], decisions: Decisions) -> np.ndarray:
    """Return the columns in the order of the sorted labels; of two, the favourable label's."""
    wanted, width = decisions.favourable, score.shape[1]
    labels = _sorted_unique([*decisions.y_true.tolist(), *decisions.y_pred.tolist()])
    if decisions.true is not None and len(labels) == 1 and wanted is None:
        labels = [-1, 1] if -1 in labels or "-1" in names else [0, 1]
    elif wanted is not None and wanted not in labels:
        labels = _sorted_unique([*labels, wanted])
    called, names = [_spelt(label) for label in labels], [_spelt(name) for name in names]
    if sorted(called) == sorted(names):
        score = score[:, [names.index(name) for name in called]]
    if width > 2:
        return score
    if width == 1 or wanted is None:
        chosen: np.ndarray = score[:, -1]
        return chosen
    if len(labels) != 2:
        raise ValueError(
            f"y_score has 2 columns, one for each of two labels, but the labels are {labels[:10]}: "
            f"pass the column of {wanted!r} alone"
        )
    return np.asarray(score[:, labels.index(wanted)])


def _spelt(label: Any) -> str:
    """Return a label as text, the same for 1 and 1.0."""
    try:
        return f"{float(str(label)):g}"
    except ValueError:
        return str(label)
