"""Tests that two samples of vectors have one distribution: MMD and energy distance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import to_numpy
from trustml.evidence._checks import check_count
from trustml.evidence._tests import TestResult, permutation_pvalue

_CHUNK = 128  # permutations at once: a block (N, 128) beside the (N, N) kernel


def mmd_test(
    X: Any,
    Y: Any,
    bandwidth: float | str = "median",
    n_permutations: int = 499,
    max_rows: int = 2000,
    random_state: RandomState = None,
) -> TestResult:
    r"""Maximum mean discrepancy with a Gaussian kernel, and its permutation p-value.

    .. math:: k(x, y) = \exp(-\|x - y\|^2 / (2 h^2))

    Parameters
    ----------
    X, Y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are flattened. Scale the features first if their units differ.
    bandwidth : float or "median"
        h, in the unit of the rows; "median" takes the median distance of the pooled rows.
    n_permutations : int
        Shuffles B; the smallest p-value is 1 / (B + 1).
    max_rows : int
        A larger sample is thinned at random to this many rows (memory is quadratic).
    random_state : int, Generator or None
        Seed of thinning and shuffles.

    Returns
    -------
    TestResult
        ``statistic`` is the squared MMD (biased, at least 0), ``effect_size`` the square root
        of the unbiased one (0 where negative), in [0, sqrt(2)].

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(50, 3)), rng.normal(1, 1, size=(50, 3))
    >>> mmd_test(X, Y, random_state=0).p_value
    0.002
    """
    first, second, rng = _samples(X, Y, max_rows, random_state)
    squared = _squared_distances(np.concatenate([first, second]))
    given = check_bandwidth(bandwidth)
    width = _median_of(squared) if given is None else given
    kernel = np.exp(-squared / (2 * width * width))
    n, m = len(first), len(second)
    statistic, p_value = _permuted(kernel, n, m, n_permutations, rng)
    # Leaving out the diagonal (k(x, x) = 1) takes the bias of 1/n and 1/m away.
    inside_x = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    inside_y = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    unbiased = float(inside_x + inside_y - 2 * kernel[:n, n:].mean())
    method = f"mmd, gaussian, bandwidth {width:.4g}"
    return TestResult(statistic, p_value, math.sqrt(max(0.0, unbiased)), method, (n, m))


def energy_test(
    X: Any,
    Y: Any,
    n_permutations: int = 499,
    max_rows: int = 2000,
    random_state: RandomState = None,
) -> TestResult:
    r"""Energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|``, and its permutation p-value.

    Zero only for equal distributions; no bandwidth to choose.

    Parameters
    ----------
    X, Y : arrays of shape (n, ...) and (m, ...)
        The samples; rows are flattened. Scale the features first if their units differ.
    n_permutations : int
        Shuffles B; the smallest p-value is 1 / (B + 1).
    max_rows : int
        A larger sample is thinned at random to this many rows (memory is quadratic).
    random_state : int, Generator or None
        Seed of thinning and shuffles.

    Returns
    -------
    TestResult
        ``statistic`` is the energy distance, ``effect_size`` it as a share of 2 E|x - y|, in
        [0, 1].

    References
    ----------
    Székely and Rizzo (2013), Energy statistics: a class of statistics based on distances.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(50, 3)), rng.normal(1, 1, size=(50, 3))
    >>> energy_test(X, Y, random_state=0).p_value
    0.002
    """
    first, second, rng = _samples(X, Y, max_rows, random_state)
    distance = np.sqrt(_squared_distances(np.concatenate([first, second])))
    n, m = len(first), len(second)
    statistic, p_value = _permuted(-distance, n, m, n_permutations, rng)
    across = 2 * float(distance[:n, n:].mean())
    effect = statistic / across if across > 0 else 0.0
    return TestResult(statistic, p_value, effect, "energy distance", (n, m))


def two_samples(X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both samples as float64 rows (n, d) and (m, d), checked."""
    out = []
    for name, rows in (("X", to_numpy(X)), ("Y", to_numpy(Y))):
        sample = np.asarray(rows, dtype=np.float64)
        if sample.ndim == 0 or len(sample) < 2:
            raise ValueError(f"{name} must have at least 2 rows, got shape {sample.shape}")
        sample = sample.reshape(len(sample), -1)
        if not np.isfinite(sample).all():
            raise ValueError(f"{name} has NaN or infinite values; drop or impute these rows")
        out.append(sample)
    first, second = out
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"X and Y must have the same features, got {first.shape[1]} and {second.shape[1]}"
        )
    return first, second


def thinned(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most ``limit`` rows, drawn at random, in their order."""
    if len(rows) <= limit:
        return rows
    kept: np.ndarray = rows[np.sort(rng.choice(len(rows), limit, replace=False))]
    return kept


def check_bandwidth(bandwidth: float | str) -> float | None:
    """Return the width of a Gaussian kernel, None for the median distance."""
    if isinstance(bandwidth, str) and bandwidth == "median":
        return None
    width = math.nan if isinstance(bandwidth, str) else float(bandwidth)
    if not 0 < width < math.inf:
        raise ValueError(f"bandwidth must be a positive number or 'median', got {bandwidth!r}")
    return width


def median_distance(rows: np.ndarray) -> float:
    """Return the median distance of rows (n, d); 1 where it is zero."""
    return _median_of(_squared_distances(rows))


def _median_of(squared: np.ndarray) -> float:
    off_diagonal = squared[np.triu_indices(len(squared), 1)]
    return math.sqrt(float(np.median(off_diagonal))) or 1.0


def _samples(
    X: Any, Y: Any, max_rows: int, random_state: RandomState
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng, limit = numpy_generator(random_state), check_count(max_rows, "max_rows", least=2)
    first, second = two_samples(X, Y)
    return thinned(first, limit, rng), thinned(second, limit, rng), rng


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)  # |a|² + |b|² - 2ab cancels badly far from the origin
    norms = (centred**2).sum(1)
    squared: np.ndarray = norms[:, None] + norms - 2 * centred @ centred.T
    np.fill_diagonal(squared, 0.0)
    squared[squared < 0] = 0.0
    return squared


def _permuted(
    kernel: np.ndarray, n: int, m: int, n_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """A'Ka with a = 1/n on X and -1/m on Y, and its rank among shuffles of a."""
    count = check_count(n_permutations, "n_permutations")
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    observed = float(weights @ kernel @ weights)
    shuffled = np.empty(count)
    for start in range(0, count, _CHUNK):
        width = min(_CHUNK, count - start)
        block = rng.permuted(np.tile(weights[:, None], width), axis=0)
        shuffled[start : start + width] = (block * (kernel @ block)).sum(0)
    rounding = 1e-14 * float(np.abs(kernel).max())
    return max(observed, 0.0), permutation_pvalue(observed, shuffled, "greater", rounding)
