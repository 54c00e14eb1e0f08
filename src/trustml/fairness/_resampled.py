"""Metrics of scores in many resamples at once, from how often each row was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trustml.fairness import _calibration as calibration
from trustml.fairness import _row_metrics as row_metrics
from trustml.fairness._of_rows import OfRows, RowMetric

Column = Callable[[np.ndarray, np.ndarray], np.ndarray]
OfBins = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
OfWeights = Callable[[np.ndarray], dict[str, np.ndarray]]  # weights (r, n) -> values (r,)


def _every(true: np.ndarray, score: np.ndarray) -> np.ndarray:
    return np.ones(len(score))


def mean_of_known(_: np.ndarray, value: np.ndarray) -> float:
    """Mean of what is not NaN; NaN where all is."""
    known = value[~np.isnan(value)]
    return float(known.mean()) if len(known) else float("nan")


# Means: what is averaged of each row, and which rows count, as functions of (true, predicted).
_MEANS: dict[Callable[..., Any], tuple[Column, Column]] = {
    row_metrics.mean_score: (lambda _, p: p, _every),
    row_metrics.mean_error: (lambda t, p: p - t, _every),
    row_metrics.mean_absolute_error: (lambda t, p: np.abs(p - t), _every),
    row_metrics.mean_squared_error: (lambda t, p: (p - t) ** 2, _every),
    mean_of_known: (lambda _, p: np.nan_to_num(p), lambda _, p: (~np.isnan(p)).astype(np.float64)),
    row_metrics.log_loss: (row_metrics.log_losses, _every),
    calibration.balance_positive_class: (lambda _, p: p, lambda t, _: t),
    calibration.balance_negative_class: (lambda _, p: p, lambda t, _: 1 - t),
}


# Of share of the rows, mean score minus share of positives, and its variance, in each bin (r, b).
_OF_BINS: dict[Callable[..., Any], OfBins] = {
    calibration.calibration_error: lambda share, gap, _: (share * np.abs(gap)).sum(1),
    calibration.debiased_calibration_error: lambda share, gap, variance: np.sqrt(
        np.maximum((share * (gap**2 - variance)).sum(1), 0)
    ),
}


def of_weights(metrics: Mapping[str, RowMetric], rows: np.ndarray) -> OfWeights:
    """Return metrics of some rows as a function of how often each row was drawn.

    Parameters
    ----------
    metrics : dict of str to metric of row indices
        Means and the area under the ROC curve take all resamples at once, others one at a time.
    rows : numpy.ndarray of shape (n,)
        Row indices.

    Returns
    -------
    callable (weights (r, n) of integers) -> dict of str to (r,)
        NaN where no drawn row counts.
    """
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    single: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for name, metric in metrics.items():
        found = mean_columns(metric, rows)
        if found is not None:
            columns[name] = found
        elif isinstance(metric, OfRows) and metric.metric is row_metrics.roc_auc:
            single[name] = _auc(*(column[rows] for column in metric.columns))
        elif isinstance(metric, OfRows) and metric.metric in _OF_BINS:
            of_bins = _OF_BINS[metric.metric]
            single[name] = _binned(of_bins, *(column[rows] for column in metric.columns))
        else:
            single[name] = _on_drawn_rows(metric, rows)
    both = [np.stack([c[i] for c in columns.values()], axis=1) if columns else None for i in (0, 1)]

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {name: function(weights) for name, function in single.items()}
        if both[0] is not None and both[1] is not None:
            real = weights.astype(np.float64)
            means = _ratio(real @ both[0], real @ both[1])
            found |= dict(zip(columns, means.T, strict=True))
        return found

    return values


def mean_columns(metric: RowMetric, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what a metric sums over rows and how much each counts; None if it is no mean."""
    if not isinstance(metric, OfRows) or metric.metric not in _MEANS:
        return None
    true, predicted = (np.asarray(c[rows], dtype=np.float64) for c in metric.columns)
    value, counts = (column(true, predicted) for column in _MEANS[metric.metric])
    return value * counts, counts


def _on_drawn_rows(metric: RowMetric, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def values(weights: np.ndarray) -> np.ndarray:
        return np.array([metric(np.repeat(rows, w)) if w.any() else np.nan for w in weights])

    return values


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    value: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return value


def _auc(true: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the share of pairs of a positive and a negative row in order, ties counted half."""
    negative = np.flatnonzero(~true)
    negative = negative[np.argsort(score[negative], kind="stable")]
    positive = np.flatnonzero(true)
    below, upto = (
        np.searchsorted(score[negative], score[positive], side=side) for side in ("left", "right")
    )

    def values(weights: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(weights), len(negative) + 1), dtype=np.int32)
        np.cumsum(weights[:, negative], axis=1, dtype=np.int32, out=sums[:, 1:])
        ahead = np.take(sums, below, axis=1) + np.take(sums, upto, axis=1)
        of_positive = weights[:, positive].astype(np.float64)
        wins = np.einsum("ij,ij->i", of_positive, ahead)
        return _ratio(wins, 2.0 * of_positive.sum(1) * sums[:, -1])

    return values


def _binned(
    of_bins: OfBins, true: np.ndarray, score: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a calibration error, in bins of equal mass of every resample."""
    order = np.argsort(score, kind="stable")
    score, true = score[order], true[order].astype(np.float64)
    first = np.searchsorted(score, score, side="left")

    def values(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order]
        upto = _cumulated(drawn.astype(np.int64))
        r, n, total = len(drawn), len(score), upto[:, -1:]
        n_bins = np.clip(total // 2, 1, calibration.N_BINS)
        bins = np.arange(1, calibration.N_BINS)
        # One ordered vector of all replicates: where each one's counts pass the rank of an edge.
        after = np.arange(r)[:, None] * (total.max() + 1)
        ranks = np.where(bins < n_bins, total * bins // n_bins, 0) + after
        place = np.searchsorted((upto[:, 1:] + after).ravel(), ranks, side="right")
        inside = np.minimum(place - np.arange(r)[:, None] * n, n - 1)
        edges = np.where(bins < n_bins, first[inside], n)
        cuts = np.hstack([np.zeros((r, 1), dtype=np.int64), edges, np.full((r, 1), n)])
        count, positives, scores = (
            np.diff(np.take_along_axis(sums, cuts, axis=1), axis=1)
            for sums in (upto, _cumulated(drawn * true), _cumulated(drawn * score))
        )
        filled = np.maximum(count, 1)
        rate = positives / filled
        variance = rate * (1 - rate) / np.maximum(count - 1, 1)
        found = of_bins(count / np.maximum(total, 1), scores / filled - rate, variance)
        result: np.ndarray = np.where(total[:, 0] > 0, found, np.nan)
        return result

    return values


def _cumulated(values: np.ndarray) -> np.ndarray:
    sums = np.zeros((len(values), values.shape[1] + 1), dtype=values.dtype)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
