"""Maximum mean discrepancy in linear time: random Fourier features, and pairs of rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.evidence._checks import check_count
from trustml.evidence._tests import TestResult, permutation_pvalue
from trustml.evidence._two_sample import check_bandwidth, median_distance, two_samples

_ROWS_FOR_BANDWIDTH = 500
_BLOCK = 2**22  # shuffled weights at once


def fourier_mmd_test(
    X: Any,
    Y: Any,
    n_features: int = 256,
    bandwidth: float | str = "median",
    n_permutations: int = 499,
    random_state: RandomState = None,
) -> TestResult:
    r"""Maximum mean discrepancy with random Fourier features, and its permutation p-value.

    The Gaussian kernel of `mmd_test` is replaced by that of random features
    :math:`(\cos w'x, \sin w'x)`, so time and memory are linear in the rows and none are thinned.
    Valid for any number of features; more of them see more differences.

    Parameters
    ----------
    X, Y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are flattened. Scale the features first if their units differ.
    n_features : int
        Numbers a row; even.
    bandwidth : float or "median"
        Of the kernel; "median" takes the median distance of at most 500 pooled rows.
    n_permutations : int
        Shuffles B; the smallest p-value is 1 / (B + 1).
    random_state : int, Generator or None
        Seed of features and shuffles.

    Returns
    -------
    TestResult
        ``statistic`` is the squared MMD (biased, at least 0), ``effect_size`` the square root
        of the unbiased one (0 where negative), in [0, sqrt(2)].

    Raises
    ------
    ValueError
        If ``n_features`` is odd.

    References
    ----------
    Zhao and Meng (2015), FastMMD: ensemble of circular discrepancy for efficient two-sample
    test, arXiv:1405.2664.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(50, 3)), rng.normal(1, 1, size=(50, 3))
    >>> fourier_mmd_test(X, Y, random_state=0).p_value
    0.002
    """
    rng = numpy_generator(random_state)
    first, second = two_samples(X, Y)
    count = check_count(n_features, "n_features", least=2)
    if count % 2:
        raise ValueError(f"n_features must be even, a cosine and a sine each, got {count}")
    n, m = len(first), len(second)
    pooled = np.concatenate([first, second])
    width = _bandwidth(pooled, bandwidth, rng)
    angles = (pooled - pooled.mean(0)) @ rng.normal(0, 1 / width, (pooled.shape[1], count // 2))
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / math.sqrt(count // 2)
    statistic, p_value = permuted_means(features, n, m, n_permutations, rng)
    # A row's own part in the squared length of its sample's mean is the bias.
    own = sum(
        float(part.var(axis=0).sum()) / (len(part) - 1) for part in (features[:n], features[n:])
    )
    effect = math.sqrt(max(0.0, statistic - own))
    method = f"mmd, {count} random Fourier features, bandwidth {width:.4g}"
    return TestResult(statistic, p_value, effect, method, (n, m))


def linear_mmd_test(
    X: Any, Y: Any, bandwidth: float | str = "median", random_state: RandomState = None
) -> TestResult:
    r"""Maximum mean discrepancy from disjoint pairs of rows, and its normal p-value.

    The mean of :math:`k(x, x') + k(y, y') - k(x, y') - k(x', y)` over pairs, each row used once:
    one pass, no shuffles, no memory beyond the rows; far less power than `mmd_test` on as many
    rows, so it is for very many. Some hundreds of rows at least, for the normal law.

    Parameters
    ----------
    X, Y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are flattened. Of the larger one, min(n, m) rows are drawn.
    bandwidth : float or "median"
        Of the Gaussian kernel; "median" takes the median distance of at most 500 pooled rows.
    random_state : int, Generator or None
        Seed of the pairs.

    Returns
    -------
    TestResult
        ``statistic`` is the unbiased squared MMD, which may be negative; ``effect_size`` its
        square root (0 where negative), in [0, sqrt(2)].

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test, section 6.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(2000, 3)), rng.normal(0.5, 1, size=(2000, 3))
    >>> linear_mmd_test(X, Y, random_state=0).p_value < 1e-6
    True
    """
    from scipy.special import ndtr

    rng = numpy_generator(random_state)
    first, second = two_samples(X, Y)
    width = _bandwidth(np.concatenate([first, second]), bandwidth, rng)
    pairs = min(len(first), len(second)) // 2
    a, b = (rows[rng.permutation(len(rows))[: 2 * pairs]] for rows in (first, second))

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        near: np.ndarray = np.exp(-((one - other) ** 2).sum(1) / (2 * width * width))
        return near

    x, x_, y, y_ = a[:pairs], a[pairs:], b[:pairs], b[pairs:]
    gains = kernel(x, x_) + kernel(y, y_) - kernel(x, y_) - kernel(x_, y)
    statistic = float(gains.mean())
    error = float(gains.std(ddof=1)) / math.sqrt(pairs) if pairs > 1 else 0.0
    # Pairs that all say the same (constant rows, or one pair) have no standard error to go by.
    p_value = float(ndtr(-statistic / error)) if error > 0 else 1.0
    method = f"mmd, linear time, bandwidth {width:.4g}"
    effect = math.sqrt(max(0.0, statistic))
    return TestResult(statistic, p_value, effect, method, (2 * pairs, 2 * pairs))


def permuted_means(
    rows: np.ndarray, n: int, m: int, n_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Squared distance of the means of the first n and the last m rows, and its p-value."""
    count = check_count(n_permutations, "n_permutations")
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    observed = float(((weights @ rows) ** 2).sum())
    step = max(1, _BLOCK // len(weights))
    shuffled = np.concatenate(
        [
            ((rng.permuted(np.tile(weights, (min(step, count - b), 1)), axis=1) @ rows) ** 2).sum(1)
            for b in range(0, count, step)
        ]
    )
    rounding = 1e-28 * float((rows**2).sum(axis=1).max())  # of a square
    return observed, permutation_pvalue(observed, shuffled, "greater", rounding)


def _bandwidth(pooled: np.ndarray, bandwidth: float | str, rng: np.random.Generator) -> float:
    given = check_bandwidth(bandwidth)
    if given is not None:
        return given
    size = min(len(pooled), _ROWS_FOR_BANDWIDTH)
    return median_distance(pooled[rng.choice(len(pooled), size, replace=False)])
