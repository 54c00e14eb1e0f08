"""Interval of the area under the ROC curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.validation import check_choice
from trustml.evidence._checks import as_finite, check_probability
from trustml.evidence._delong import delong_covariance
from trustml.evidence._intervals import Interval


def auroc_interval(
    scores_in: Any, scores_out: Any, level: float = 0.95, method: str = "newcombe"
) -> Interval:
    r"""Interval of P(out > in) + P(out = in) / 2, the area under the ROC curve.

    "newcombe": the ends solve :math:`|A - \hat A| = z \sqrt{V(A)}` with Hanley and McNeil's
    variance (Newcombe's method 5), so the interval stays inside [0, 1] and keeps its width where
    the samples are separated perfectly, which bootstrap and Wald intervals do not. "delong":
    :math:`\hat A \pm z` standard errors, cut to [0, 1]; its variance assumes nothing of the
    scores, so it is the better one for many rows whose spread differs between the samples.

    Parameters
    ----------
    scores_in : array of shape (n,)
        Scores of the sample that should score low; finite.
    scores_out : array of shape (m,)
        Scores of the sample that should score high.
    level : float in (0, 1)
        Confidence level.
    method : {"newcombe", "delong"}
        How; "delong" needs at least 2 rows of each sample.

    Returns
    -------
    Interval
        In [0, 1]; 0.5 is chance.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated
    receiver operating characteristic curves.
    Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic. Part 2: asymptotic methods and evaluation.

    Examples
    --------
    >>> print(auroc_interval(range(50), range(50, 100)))
    1 [0.9603, 1] (95%)
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    inside, outside = as_finite(scores_in, "scores_in"), as_finite(scores_out, "scores_out")
    level = check_probability(level, "level")
    check_choice(method, "method", ("newcombe", "delong"))
    z = float(ndtri((1 + level) / 2))
    if method == "delong":
        areas, covariance = delong_covariance(inside[None], outside[None])
        area, half = float(areas[0]), z * math.sqrt(float(covariance[0, 0]))
        low, high = max(0.0, area - half), min(1.0, area + half)
        return Interval(area, low, high, level, "delong's interval of the AUROC")
    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    estimate = float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))

    def excess(area: float) -> float:
        """Grow from below zero at the estimate to above zero at the end of the interval."""
        spare = (n + m) / 2 - 1
        factor = 1 + spare * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(area - estimate) - z * math.sqrt(area * (1 - area) * factor / (n * m))

    low = _crossing(excess, estimate, 0.0)
    high = _crossing(excess, estimate, 1.0)
    return Interval(estimate, low, high, level, "newcombe's score interval of the AUROC")


def _crossing(excess: Any, inner: float, outer: float) -> float:
    """Bisect for the sign change between the estimate and an end of [0, 1]."""
    for _ in range(60):
        middle = (inner + outer) / 2
        if excess(middle) < 0:
            inner = middle
        else:
            outer = middle
    return (inner + outer) / 2
