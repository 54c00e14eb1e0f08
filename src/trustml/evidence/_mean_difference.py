"""A p-value for the difference of two means of bounded losses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from trustml.core.validation import restore
from trustml.evidence._bounded_mean import column_law
from trustml.evidence._checks import check_probability


def mean_difference_pvalue(
    losses: Any,
    losses_reference: Any,
    alpha: float,
    method: str = "hoeffding-bentkus",
    bound: float = 1.0,
    aim: float = 0.1,
) -> Any:
    """Return p-values of "the first mean exceeds the reference's by at least ``alpha``".

    If it does, then the reference's mean is some b, the first one's at least b + ``alpha``, and
    two independent p-values say so, which Fisher's method combines; the answer is the largest
    combination over all b, so nothing is assumed of it and nothing is asymptotic.

    Parameters
    ----------
    losses : array of shape (n,) or (n, m)
        Independent losses of the first sample, in [0, bound].
    losses_reference : array of shape (k,) or (k, m)
        Those of the reference sample, independent of the first.
    alpha : float in (0, bound)
        Difference that is tested; rejecting means that the first mean is below the reference's
        plus ``alpha``. For both directions test both, and take the larger p-value.
    method : {"hoeffding-bentkus", "wsr", "clopper-pearson", "empirical-bernstein"}
        As for `mean_pvalue`.
    bound : float
        Largest loss that is possible.
    aim : float in (0, 1)
        As for `mean_pvalue`.

    Returns
    -------
    float, or array of shape (m,)
        p-values in [0, 1].

    Raises
    ------
    ValueError
        If the samples differ in their columns, ``alpha`` is not in (0, bound), or as for
        `mean_pvalue`.

    References
    ----------
    Fisher (1932), Statistical methods for research workers, section 21.1.
    Berger and Boos (1994), P values maximized over a confidence set for the nuisance parameter.

    Examples
    --------
    >>> first, reference = [0, 1] * 100, [1, 1, 0] * 80
    >>> mean_difference_pvalue(first, reference, alpha=0.1, method="clopper-pearson") < 0.01
    True
    """
    aim, bound = check_probability(aim, "aim"), float(bound)
    gap = float(alpha) / bound
    if not 0 < gap < 1:
        raise ValueError(f"alpha must be in (0, bound) = (0, {bound:g}), got {alpha!r}")
    first = column_law(losses, method, bound, aim)
    # A small mean of what the losses leave of their bound is a large mean of the losses.
    other = column_law(losses_reference, method, bound, aim, reverse=True)
    if np.ndim(losses) != np.ndim(losses_reference) or first.mean.shape != other.mean.shape:
        raise ValueError(
            f"both samples need the same columns, got {first.mean.shape} and {other.mean.shape}"
        )
    # Cells so narrow that the slack of a cell is small beside the standard errors.
    cells = max(256, math.ceil(8 * math.sqrt(min(len(first.table), len(other.table)))))
    edges = np.linspace(0, 1 - gap, cells + 1)
    product = np.zeros(first.mean.shape)
    for low, high in pairwise(edges):
        # In b one p-value falls and the other grows: the ends of a cell bound it from above.
        product = np.maximum(product, first.pvalue(low + gap) * other.pvalue(1 - high))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(product > 0, product * (1 - np.log(product)), 0.0)
    return float(p[0]) if np.ndim(losses) == 1 else restore(p, losses)
