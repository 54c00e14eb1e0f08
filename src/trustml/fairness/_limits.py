"""Intervals of means of bounded rows and of areas under ROC curves, without resampling.

A bootstrap knows only the values that it has seen: it is empty where a group shows no variation.
"""

from __future__ import annotations

import math

import numpy as np

from trustml.evidence import Interval
from trustml.evidence._auroc import _crossing
from trustml.evidence._checks import check_probability
from trustml.evidence._delong import delong_covariance
from trustml.fairness import _calibration, _row_metrics
from trustml.fairness._of_rows import OfRows, RowMetric
from trustml.fairness._resampled import mean_columns

Ends = tuple[float, float]

# Of probabilities against labels: the range of a row's value.
_OF_PROBABILITIES = {
    _row_metrics.mean_score: (0.0, 1.0),
    _row_metrics.mean_squared_error: (0.0, 1.0),
    _row_metrics.mean_error: (-1.0, 1.0),
    _calibration.balance_positive_class: (0.0, 1.0),
    _calibration.balance_negative_class: (0.0, 1.0),
}
_OWN_SPREAD = 10  # misplaced rows at which DeLong's variance weighs as much as Hanley and McNeil's


def limits(metric: RowMetric, rows: np.ndarray, level: float) -> Interval | None:
    """Return the interval of a metric over some rows, None where only a bootstrap knows one."""
    if not isinstance(metric, OfRows):
        return None
    level = check_probability(level, "level")
    if metric.metric is _row_metrics.roc_auc:
        true, score = (column[rows] for column in metric.columns)
        return area_limits(score[~true], score[true], level)
    ends, columns = known_ends(metric), mean_columns(metric, rows)
    if ends is None or columns is None:
        return None
    values, counts = columns
    return mean_limits(values[counts > 0], ends, level)


def known_ends(metric: OfRows) -> Ends | None:
    """Return the range of the rows' values; of log losses as far as the scores seen tell it."""
    if metric.ends is not None or metric.columns[0].dtype != bool:
        return metric.ends
    score = metric.columns[1]
    if score.min() < 0 or score.max() > 1:
        return None
    if metric.metric is _row_metrics.log_loss:
        # The surest score of all, met by the other label.
        sure = np.array([min(score.min(), 1 - score.max())])
        return 0.0, float(_row_metrics.log_losses(np.array([True]), sure)[0])
    return _OF_PROBABILITIES.get(metric.metric)


def mean_limits(values: np.ndarray, ends: Ends, level: float) -> Interval:
    """Return Gaffke's interval of the mean of values in a known range.

    Each limit is a quantile of the mean under Dirichlet(1, ..., 1) weights of the values and one
    more at that end of the range: a Bayesian bootstrap that knows what it may not have seen. Of
    values that are 0 or 1 it is Clopper and Pearson's. The quantile is a saddlepoint's, so nothing
    is drawn: within 1 % of the exact tail.

    Parameters
    ----------
    values : numpy.ndarray of shape (n,)
        In the range; at least one.
    ends : (float, float)
        Smallest and largest value that is possible.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    Interval
        Within the range.

    References
    ----------
    Gaffke (2005), Three test statistics for a nonparametric one-sided hypothesis on the mean of a
    nonnegative variable.
    Lugannani and Rice (1980), Saddlepoint approximation for the distribution of the sum of
    independent random variables.
    """
    tail = (1 - level) / 2
    low, high = -_upper(-values, -ends[0], tail), _upper(values, ends[1], tail)
    return Interval(float(values.mean()), low, high, level, "gaffke")


def area_limits(below: np.ndarray, above: np.ndarray, level: float) -> Interval:
    """Return Newcombe's score interval of the area, scaled to the spread of these very scores.

    Its variance is Hanley and McNeil's times how DeLong's compares with it, shrunken towards 1
    while few rows are misplaced: with perfect separation DeLong's is 0.

    Parameters
    ----------
    below, above : numpy.ndarray of shape (n,) and (m,)
        Scores of the negative and of the positive rows.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    Interval
        In [0, 1]; NaN where there are no rows of either kind.

    References
    ----------
    Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic. Part 2: asymptotic methods and evaluation.
    """
    from scipy.special import ndtri

    n, m = len(below), len(above)
    if not n or not m:
        return Interval(math.nan, math.nan, math.nan, level, "undefined")
    # Shares of the other class that each row is on the right side of.
    own, other = np.sort(below), np.sort(above)
    right = (np.searchsorted(own, above) + np.searchsorted(own, above, "right")) / (2 * n)
    left = 1 - (np.searchsorted(other, below) + np.searchsorted(other, below, "right")) / (2 * m)
    area, factor = float(right.mean()), 1.0
    misplaced = min(int((right != round(area)).sum()), int((left != round(area)).sum()))
    if min(n, m) > 1 and misplaced:
        spread = float(delong_covariance(below[None], above[None])[1][0, 0])
        share = misplaced / (misplaced + _OWN_SPREAD)
        own_factor = spread / _area_variance(area, n, m)
        factor = max(own_factor, share * own_factor + 1 - share)
    z = float(ndtri((1 + level) / 2))

    def excess(end: float) -> float:
        return abs(end - area) - z * math.sqrt(factor * _area_variance(end, n, m))

    low, high = _crossing(excess, area, 0.0), _crossing(excess, area, 1.0)
    return Interval(area, low, high, level, "newcombe")


def _area_variance(area: float, n: int, m: int) -> float:
    spare = (n + m) / 2 - 1
    factor = 1 + spare * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * factor / (n * m)


def _upper(values: np.ndarray, end: float, tail: float) -> float:
    """Solve P(sum E_i (x_i - u) > 0) = tail for u, with exponential E_i and x_(n+1) = end."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    x = np.append(values, end)
    n, mean = len(x), float(x.mean())
    room = end - mean
    if room <= 1e-10 * float(np.abs(x).max()):  # less than rounding leaves of it
        return end
    away, target = x - mean, -float(ndtri(tail))

    # The saddlepoint of u is 1 / (s - u); given s > end, u is explicit.
    def at(log_excess: float) -> tuple[float, float]:
        s = room + room * math.exp(log_excess)  # relative to the mean
        part = away / s
        inverse = 1 / (1 - part)
        harmonic = n / float(inverse.sum())
        root = math.sqrt(max(0.0, 2 * (float(np.log1p(-part).sum()) - n * math.log(harmonic))))
        slope = math.sqrt(float(((harmonic * inverse - 1) ** 2).sum()))
        z = root + math.log(slope / root) / root if root > 1e-3 else 0.0
        return z - target, s * (1 - harmonic)

    found = brentq(lambda e: at(e)[0], math.log(1e-13), math.log(1e4 * n), xtol=1e-9)
    return min(end, mean + at(found)[1])
