"""Test that two samples of vectors have one mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.evidence._mean_embedding import permuted_means
from trustml.evidence._tests import TestResult
from trustml.evidence._two_sample import two_samples

_RANK = 1e-10  # of the largest variance; directions below it hold rounding


def hotelling_test(
    X: Any, Y: Any, n_permutations: int = 499, random_state: RandomState = None
) -> TestResult:
    r"""Hotelling's test that two samples of vectors have one mean, whatever their units.

    .. math:: T^2 = \frac{n m}{n + m} (\bar x - \bar y)' S^{-1} (\bar x - \bar y)

    with S the pooled covariance, of rank k; invariant under affine maps of the rows. T² tends to
    chi-squared with k degrees of freedom.

    Parameters
    ----------
    X, Y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are flattened.
    n_permutations : int
        Shuffles B of the pooled rows; the smallest p-value is 1 / (B + 1). 0: the F law with
        (k, n + m - k - 1) degrees of freedom, exact for normal rows and asymptotic for others.
    random_state : int, Generator or None
        Seed of the shuffles.

    Returns
    -------
    TestResult
        ``statistic`` is T², ``effect_size`` the distance of the means in standard deviations
        (Mahalanobis, its bias removed, 0 where that is negative).

    Raises
    ------
    ValueError
        If there are no more than k + 1 rows.

    References
    ----------
    Hotelling (1931), The generalization of Student's ratio.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(50, 3)), rng.normal(1, 1, size=(50, 3))
    >>> hotelling_test(X, Y, random_state=0).p_value
    0.002
    """
    from scipy.special import fdtrc

    first, second = two_samples(X, Y)
    n, m = len(first), len(second)
    pooled = np.concatenate([first, second])
    pooled = pooled - pooled.mean(0)
    largest = np.abs(pooled).max(axis=0)
    pooled = pooled / np.where(largest > 0, largest, 1.0)  # units must not decide the rank
    values, vectors = np.linalg.eigh(pooled.T @ pooled)
    seen = values > _RANK * max(float(values[-1]), 0.0)
    k, total = int(seen.sum()), n + m
    if total <= k + 1:
        raise ValueError(
            f"Hotelling's test of {k} dimensions needs more than {k + 1} rows, got {n} + {m}; "
            "keep fewer columns, or use mmd_test"
        )
    if k == 0:
        return TestResult(0.0, 1.0, 0.0, "hotelling, constant rows", (n, m))
    # Whitened by the pooled scatter, which no shuffle changes: T² grows with this distance.
    white = pooled @ (vectors[:, seen] / np.sqrt(values[seen]))
    gap = white[:n].mean(0) - white[n:].mean(0)
    share = min(float(gap @ gap) * n * m / total, 1 - 1e-15)
    squared = (total - 2) * share / (1 - share)
    if n_permutations:
        p_value = permuted_means(white, n, m, n_permutations, numpy_generator(random_state))[1]
        method = f"hotelling, {k} degrees of freedom, permutation ({n_permutations})"
    else:
        p_value = float(fdtrc(k, total - k - 1, squared * (total - k - 1) / (k * (total - 2))))
        method = f"hotelling, F({k}, {total - k - 1})"
    scale = total / (n * m)
    unbiased = max(0, total - k - 3) / (total - 2) * squared * scale - k * scale
    return TestResult(squared, p_value, math.sqrt(max(0.0, unbiased)), method, (n, m))
