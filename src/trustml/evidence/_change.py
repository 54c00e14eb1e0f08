"""Test that scores in order of time come from one law throughout."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.evidence._checks import as_vector, check_count
from trustml.evidence._tests import TestResult, permutation_pvalue

_CELLS = 2**20  # numbers shuffled at a time


def change_test(
    scores: Any, n_permutations: int = 499, random_state: RandomState = None
) -> TestResult:
    """Test that scores are exchangeable, against a change of their level at an unknown time.

    The largest standardised difference of the mean ranks before and after any split, among
    its values for shuffled scores: valid at any n, for any law and with ties. For a stream that
    is watched while it grows, use `betting_martingale`.

    Parameters
    ----------
    scores : array of shape (n,)
        In order of time, at least 2.
    n_permutations : int
        Shuffles B; the smallest p-value is 1 / (B + 1).
    random_state : int, Generator or None
        Seed of the shuffles.

    Returns
    -------
    TestResult
        ``n`` holds the rows before and after the split where the difference is largest,
        ``effect_size`` is P(later > earlier) + P(equal) / 2 - 1/2 there, in [-0.5, 0.5].

    Raises
    ------
    ValueError
        If there is a single score.

    References
    ----------
    Pettitt (1979), A non-parametric approach to the change-point problem.

    Examples
    --------
    >>> found = change_test([1, 3, 2, 1, 2, 7, 9, 8, 7, 8], random_state=0)
    >>> found.n, found.effect_size, found.p_value < 0.05
    ((5, 5), 0.5, True)
    """
    from scipy.stats import rankdata

    values, count = as_vector(scores, "scores"), check_count(n_permutations, "n_permutations")
    n = len(values)
    if n == 1:
        raise ValueError("scores must be at least 2 to have a before and an after, got 1")
    ranks = rankdata(values) - (n + 1) / 2
    before = np.arange(1, n)
    unit = np.sqrt(before * (n - before) / n * max(float(ranks.var(ddof=1)), np.finfo(float).tiny))
    gaps = _gaps(ranks[None], unit)[0]
    split = int(gaps.argmax()) + 1
    rng, width = numpy_generator(random_state), max(1, _CELLS // n)
    shuffled = np.concatenate(
        [
            _gaps(rng.permuted(np.tile(ranks, (min(width, count - start), 1)), axis=1), unit).max(1)
            for start in range(0, count, width)
        ]
    )
    observed = float(gaps.max())
    # Mann and Whitney: the difference of the mean ranks is n times P(later > earlier) - 1/2.
    effect = float(ranks[split:].mean() - ranks[:split].mean()) / n
    method = f"change of the mean rank, permutation ({count})"
    p_value = permutation_pvalue(observed, shuffled, "greater")
    return TestResult(observed, p_value, effect, method, (split, n - split))


def _gaps(ranks: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Absolute standardised sums of the first k of centred ranks (b, n), for every k < n."""
    gaps: np.ndarray = np.abs(np.cumsum(ranks, axis=1)[:, :-1]) / unit
    return gaps
