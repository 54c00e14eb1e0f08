"""Coverage against the law that it has for a correct predictor."""

from __future__ import annotations

import math
from typing import Any

from trustml.conformal._coverage import covered, one_level
from trustml.core.validation import check_choice, check_positive_int
from trustml.evidence import TestResult, exact_alpha


def coverage_test(
    y_true: Any,
    prediction: Any,
    n_cal: int,
    alpha: float = 0.1,
    classes: Any = None,
    alternative: str = "less",
) -> TestResult:
    """Test that the covered rows are as many as split conformal prediction promises.

    With continuous scores their number is Beta-Binomial(n, n_cal + 1 - l, l) with
    l = floor((n_cal + 1) alpha), over calibration and test rows together: the p-value is exact.
    Ties only raise the coverage, so "less" is valid for every score.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at ``alpha``.
    n_cal : int
        Calibration rows: ``n_calibration_`` of the predictor.
    alpha : float in (0, 1)
        Error rate that was asked for.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    alternative : {"less", "greater", "two-sided"}
        "less": fewer rows are covered than promised.

    Returns
    -------
    TestResult
        ``statistic`` is the coverage, ``effect_size`` it minus its expectation, which is at least
        1 - alpha.

    References
    ----------
    Vovk (2012), Conditional validity of inductive conformal predictors, arXiv:1209.2673.

    Examples
    --------
    >>> sets = [[True, False]] * 85 + [[False, True]] * 15
    >>> coverage_test([0] * 100, sets, n_cal=99, alpha=0.1).p_value < 0.2
    True
    """
    from scipy.stats import betabinom

    check_choice(alternative, "alternative", ("less", "greater", "two-sided"))
    hit = one_level(covered(y_true, prediction, classes))
    n, k, rows = len(hit), int(hit.sum()), check_positive_int(n_cal, "n_cal")
    misses = math.floor((rows + 1) * exact_alpha(alpha))
    if misses == 0:  # too few calibration rows for alpha: everything is promised
        below, above = float(k == n), 1.0
    else:
        law = betabinom(n, rows + 1 - misses, misses)
        below, above = float(law.cdf(k)), float(law.sf(k - 1))
    tails = {"less": below, "greater": above, "two-sided": min(1.0, 2 * min(below, above))}
    effect = k / n - (1 - misses / (rows + 1))
    return TestResult(k / n, tails[alternative], effect, f"beta-binomial, {alternative}", (rows, n))
