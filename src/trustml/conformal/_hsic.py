"""Dependence of coverage on size."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.conformal._coverage import covered, one_level, sizes
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_finite, check_positive_int
from trustml.evidence import TestResult

_RESIDUAL = 1e-12  # of the kernel's diagonal of ones


def hsic(
    y_true: Any,
    prediction: Any,
    classes: Any = None,
    bandwidth: float | None = None,
    n_permutations: int = 999,
    random_state: RandomState = None,
) -> TestResult:
    """Test that being covered has nothing to do with the size of the set or interval.

    Sets that cover as often in easy rows as in hard ones show no dependence of any kind; the
    Hilbert-Schmidt independence criterion finds all kinds, and its p-value is exact, by shuffling
    which size belongs to which row.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at one alpha.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    bandwidth : float or None
        Of the kernel exp(-(difference / bandwidth)^2) of sizes, in their unit; None: their
        standard deviation.
    n_permutations : int
        Shuffles; the smallest p-value is 1 / (shuffles + 1).
    random_state : int, Generator or None
        Seed of the shuffles.

    Returns
    -------
    TestResult
        ``statistic`` is the root of the criterion, 0 where all sizes are equal; ``effect_size``
        the criterion over its largest possible value, in [0, 1].

    Raises
    ------
    ValueError
        If a width is infinite, there is one row, or ``bandwidth`` is not positive.

    References
    ----------
    Feldman, Bates and Romano (2021), Improving conditional coverage via orthogonal quantile
    regression, arXiv:2106.00394. Gretton, Fukumizu, Teo, Song, Schölkopf and Smola (2007), A
    kernel statistical test of independence.

    Examples
    --------
    >>> sets = [[True, False]] * 40 + [[True, True]] * 40
    >>> hsic([0] * 20 + [1] * 60, sets, random_state=0).p_value
    0.001
    """
    hit, size = one_level(covered(y_true, prediction, classes)), sizes(prediction)
    check_finite(size, "the width of intervals")
    n, count = len(hit), check_positive_int(n_permutations, "n_permutations")
    if n < 2:
        raise ValueError("dependence needs at least 2 rows, got 1")
    if bandwidth is None:
        bandwidth = float(size.std()) or 1.0
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth must be finite and > 0, got {bandwidth!r}")
    rows, rng = _features(size, bandwidth), numpy_generator(random_state)
    rows -= rows.mean(axis=0)
    gap = hit - hit.mean()
    observed = float(np.linalg.norm(gap @ rows))
    drawn = np.array([np.linalg.norm(rng.permutation(gap) @ rows) for _ in range(count)])
    p_value = (1 + np.count_nonzero(drawn >= observed * (1 - 1e-10))) / (count + 1)
    most = float(gap @ gap * np.linalg.norm(rows.T @ rows))
    # The kernel exp(-difference^2) of two values, 0 and 1, is linear once it is centred.
    root = np.sqrt(2 * (1 - np.exp(-1))) * observed / (n - 1)
    effect = observed**2 / most if most > 0 else 0.0
    return TestResult(float(root), float(p_value), effect, f"hsic, permutation ({count})", (n,))


def _features(size: np.ndarray, bandwidth: float) -> np.ndarray:
    """Rows (n, r) whose inner products are the kernel: r is small, and no (n, n) is held."""
    values, place = np.unique(size / bandwidth, return_inverse=True)
    left, columns = np.ones(len(values)), np.empty((len(values), 0))
    while columns.shape[1] < len(values) and left.max() > _RESIDUAL:
        i = int(left.argmax())
        column = np.exp(-((values - values[i]) ** 2)) - columns @ columns[i]
        columns = np.column_stack([columns, column / np.sqrt(left[i])])
        left = np.clip(left - columns[:, -1] ** 2, 0, None)
        left[i] = 0
    rows: np.ndarray = columns[place]
    return rows
