"""Bootstrap intervals of any statistic of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, to_numpy
from trustml.evidence._checks import check_count, check_probability
from trustml.evidence._intervals import Interval

_METHODS = ("bca", "percentile", "basic")
_MAX_BLOCKS = 200  # deletions behind BCa's acceleration; larger samples lose blocks of rows


def bootstrap(
    statistic: Callable[..., Any],
    *arrays: Any,
    level: float = 0.95,
    n_resamples: int = 1000,
    method: str = "bca",
    strata: Any = None,
    random_state: RandomState = None,
) -> Any:
    """Return the bootstrap interval of a statistic of rows.

    Rows are drawn with replacement, the same rows of every array. A resample in which the
    statistic is not finite (a group that was not drawn) is left out, and ``method`` of the
    interval says how many were.

    Parameters
    ----------
    statistic : callable (*arrays) -> float or array of shape (k,)
        Applied to the arrays and to their resamples.
    *arrays : arrays of shape (n, ...)
        Rows, paired across the arrays.
    level : float in (0, 1)
        Confidence level.
    n_resamples : int
        Resamples; 1000 or more for the ends of a 95 % interval.
    method : {"bca", "percentile", "basic"}
        "bca" corrects for bias and skewness.
    strata : array of shape (n,) or None
        Rows are drawn within each value, so every group keeps its size.
    random_state : int, Generator or None
        Seed of the draws.

    Returns
    -------
    Interval or list of Interval
        One for a scalar statistic, a list for a vector.

    Raises
    ------
    ValueError
        If the statistic is not finite on the data or on more than half of the resamples.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 14.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=200)
    >>> bootstrap(np.mean, x, random_state=0).contains(0.0)
    True
    """
    level = check_probability(level, "level")
    count = check_count(n_resamples, "n_resamples", least=2)
    check_choice(method, "method", _METHODS)
    rows = [np.asarray(to_numpy(a)) for a in arrays]
    groups = _groups(rows, strata)
    rng = numpy_generator(random_state)

    def at(index: np.ndarray) -> np.ndarray:
        return np.atleast_1d(np.asarray(statistic(*(a[index] for a in rows)), dtype=np.float64))

    on_data = np.asarray(statistic(*rows), dtype=np.float64)
    observed = np.atleast_1d(on_data)
    if observed.ndim != 1:
        raise ValueError(f"statistic must return a number or (k,), got shape {observed.shape}")
    if not np.isfinite(observed).all():
        raise ValueError(f"statistic must be finite on the data, got {observed}")
    draws = np.stack(
        [
            at(np.concatenate([g[rng.integers(len(g), size=len(g))] for g in groups]))
            for _ in range(count)
        ]
    )
    skew = np.zeros_like(observed)
    if method == "bca":
        skew = _acceleration(at, observed, groups, rng)
    intervals = [
        _interval(observed[j], draws[:, j], level, method, skew[j]) for j in range(len(observed))
    ]
    return intervals if on_data.ndim else intervals[0]


def _groups(rows: list[np.ndarray], strata: Any) -> list[np.ndarray]:
    """Row indices of each stratum."""
    if not rows:
        raise ValueError("bootstrap needs at least one array of rows")
    lengths = {a.shape[0] if a.ndim else 0 for a in rows}
    if len(lengths) > 1 or 0 in lengths:
        shapes = [a.shape for a in rows]
        raise ValueError(f"arrays must have the same number of rows, at least one; got {shapes}")
    n = lengths.pop()
    if strata is None:
        return [np.arange(n)]
    labels = np.asarray(to_numpy(strata))
    if labels.shape != (n,):
        raise ValueError(f"strata must have shape ({n},), got {labels.shape}")
    _, code = np.unique(labels, return_inverse=True)
    return [np.flatnonzero(code == k) for k in range(code.max() + 1)]


def _interval(
    observed: float, draws: np.ndarray, level: float, method: str, skew: float
) -> Interval:
    from scipy.special import ndtr, ndtri

    total, draws = len(draws), draws[np.isfinite(draws)]
    dropped = total - len(draws)
    if dropped > total / 2:
        raise ValueError(
            f"statistic is not finite on {dropped} of {total} resamples; pass strata= so that "
            "every group keeps its rows, or use a statistic that is defined without them"
        )
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        below = (draws < observed).mean() + (draws == observed).mean() / 2
        edge = 0.5 / len(draws)  # a resample on neither side must not send z to infinity
        shift = ndtri(np.clip(below, edge, 1 - edge))
        z = shift + ndtri(tails)
        tails = ndtr(shift + z / (1 - skew * z))
    low, high = np.quantile(draws, tails)
    if method == "basic":
        low, high = 2 * observed - high, 2 * observed - low
    note = f"bootstrap {method}, {total} resamples" + (f", {dropped} undefined" if dropped else "")
    return Interval(float(observed), float(low), float(high), level, note)


def _acceleration(
    at: Callable[[np.ndarray], np.ndarray],
    observed: np.ndarray,
    groups: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Skewness of the statistic's influence, from deleting rows (blocks of rows if many)."""
    n = sum(len(g) for g in groups)
    cubes, squares = np.zeros_like(observed), np.zeros_like(observed)
    for g, group in enumerate(groups):
        n_blocks = min(len(group), max(2, round(_MAX_BLOCKS * len(group) / n)))
        if n_blocks < 2:
            continue  # a stratum of one row never varies
        mixed = rng.permutation(group) if n_blocks < len(group) else group
        others = [h for k, h in enumerate(groups) if k != g]
        blocks = np.array_split(mixed, n_blocks)
        deleted = np.stack(
            [
                at(np.concatenate([*others, *(b for k, b in enumerate(blocks) if k != i)]))
                for i in range(n_blocks)
            ]
        )
        deleted = np.where(np.isfinite(deleted), deleted, observed)
        influence = (n_blocks - 1) / n_blocks * (deleted.mean(0) - deleted)
        cubes = cubes + (influence**3).sum(0)
        squares = squares + (influence**2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(cubes / (6 * squares**1.5), nan=0.0, posinf=0.0, neginf=0.0)
