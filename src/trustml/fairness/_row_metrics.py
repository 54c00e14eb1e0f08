"""Metrics of rows that are no rates: of scores, and of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.core.validation import check_finite, to_numpy

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


SCORE_METRICS: dict[str, ScoreMetric] = {
    "mean_score": lambda true, score: float(score.mean()),
    "brier_score": lambda true, score: float(((score - true) ** 2).mean()),
    "calibration_in_the_large": lambda true, score: float((score - true).mean()),
    "roc_auc": roc_auc,
}

# (true numbers, predicted numbers) -> value, in their unit or its square
NUMBER_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean_prediction": lambda y, p: float(p.mean()),
    "mean_error": lambda y, p: float((p - y).mean()),
    "mean_absolute_error": lambda y, p: float(np.abs(p - y).mean()),
    "mean_squared_error": lambda y, p: float(((p - y) ** 2).mean()),
}


def as_score(y_score: Any, n: int) -> np.ndarray:
    """Return the score of the favourable class as (n,) float64."""
    score = to_numpy(y_score)
    if score.dtype.kind not in "biuf":
        raise TypeError(f"y_score must hold numbers, got dtype {score.dtype}")
    if score.ndim == 2 and score.shape[1] <= 2:
        score = score[:, -1]
    if score.shape != (n,):
        raise ValueError(
            f"y_score must have shape ({n},), the probability of the favourable class, or ({n}, 2),"
            f" got {score.shape}"
        )
    check_finite(score, "y_score")
    return score.astype(np.float64)
