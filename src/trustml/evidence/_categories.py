"""Chi-squared test that two samples of categories have one distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.validation import to_numpy
from trustml.evidence._checks import check_count
from trustml.evidence._tests import TestResult

_FEWEST_EXPECTED = 5.0


def chi2_test(x: Any, y: Any, bins: int = 10) -> TestResult:
    """Pearson's chi-squared test that two samples of categories have one distribution.

    Categories that are too rare for the chi-squared law - fewer than 5 expected in the smaller
    sample - are taken together, by their pooled counts.

    Parameters
    ----------
    x, y : arrays of shape (n,) and (m,)
        The samples: numbers or strings; missing values are a category.
    bins : int
        Numbers of more than so many distinct values fall into so many bins, cut at quantiles of
        the pooled sample.

    Returns
    -------
    TestResult
        ``effect_size`` is Cramér's V with its bias removed, in [0, 1].

    Raises
    ------
    ValueError
        If a sample is not a vector, or is empty.

    References
    ----------
    Bergsma (2013), A bias-correction for Cramér's V and Tschuprow's T.

    Examples
    --------
    >>> round(chi2_test(["a", "b"] * 50, ["a", "a", "a", "b"] * 25).p_value, 5)
    0.00026
    """
    from scipy.special import chdtrc

    n_bins = check_count(bins, "bins", least=2)
    samples = [np.asarray(to_numpy(part)) for part in (x, y)]
    for name, part in zip("xy", samples, strict=True):
        if part.ndim != 1 or len(part) == 0:
            raise ValueError(f"{name} must be a non-empty vector, got shape {part.shape}")
    n, m = (len(part) for part in samples)
    code = _codes(np.concatenate(samples), n_bins)
    table = np.stack([np.bincount(part, minlength=code.max() + 1) for part in (code[:n], code[n:])])
    table = _without_rare(table)
    total, k = n + m, table.shape[1]
    if k == 1:
        return TestResult(0.0, 1.0, 0.0, "chi-squared, one category", (n, m))
    expected = np.outer([n, m], table.sum(0)) / total
    statistic = float(((table - expected) ** 2 / expected).sum())
    effect = math.sqrt(min(1.0, max(0.0, statistic / total - (k - 1) / (total - 1))))
    p_value = float(chdtrc(k - 1, statistic))
    return TestResult(statistic, p_value, effect, f"chi-squared, {k} categories", (n, m))


def _codes(pooled: np.ndarray, bins: int) -> np.ndarray:
    if pooled.dtype.kind not in "biufUS":
        pooled = pooled.astype(str)  # of objects of several types, which have no order
    values, code = np.unique(pooled, return_inverse=True)
    if len(values) > bins and pooled.dtype.kind in "iuf":
        edges = np.quantile(code, np.arange(1, bins) / bins, method="lower")
        code = np.searchsorted(np.unique(edges), code, side="left")
    found: np.ndarray = code
    return found


def _without_rare(table: np.ndarray) -> np.ndarray:
    """Take the rarest columns together until every one is expected often enough."""
    ordered = table[:, np.argsort(table.sum(0), kind="stable")]
    expected = ordered.sum(0) * table.sum(1).min() / table.sum()
    rare = int(np.count_nonzero(expected < _FEWEST_EXPECTED))
    if rare == 0:
        return ordered
    enough = 1 + int(np.searchsorted(np.cumsum(expected), _FEWEST_EXPECTED))
    rare = max(rare, enough)
    return np.concatenate([ordered[:, :rare].sum(1, keepdims=True), ordered[:, rare:]], axis=1)
