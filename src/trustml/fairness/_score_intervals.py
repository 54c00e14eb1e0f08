"""BCa bootstrap intervals of metrics of rows, and of their contrasts between groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.evidence import Interval
from trustml.evidence._bootstrap import _MAX_BLOCKS, _interval
from trustml.fairness._of_rows import RowMetric
from trustml.fairness._resampled import of_weights
from trustml.fairness._row_weights import multinomial_weights

CHUNK = 2**18  # row weights drawn at a time: these stay in the cache
LEAST_ROWS = 10  # below, or where no resample differs, a bootstrap knows no uncertainty


def of_metric(
    metric: RowMetric, rows: np.ndarray, level: float, random_state: RandomState
) -> Interval:
    """Return the interval of a metric over some rows; NaN where these are too few or alike."""
    rng = numpy_generator(random_state)
    if len(rows) < LEAST_ROWS:
        return _unknown(math.nan, level)
    one = _resample(metric, rows, _count(level), _MAX_BLOCKS, rng)
    if not one.varies:
        return _unknown(one.value, level)
    return _interval(one.value, one.draws, level, "bca", _skew(one.cubes, one.squares))


def of_contrasts(
    metric: RowMetric,
    rows: dict[int, np.ndarray],
    kind: str,
    pairs: list[tuple[int, int]],
    level: float,
    random_state: RandomState,
) -> list[Interval]:
    """Return the intervals of differences or ratios of a metric between groups.

    Rows are drawn within groups; all pairs share the draws.

    Returns
    -------
    list of Interval
        First group of each pair minus, or over, the second; NaN where the rows of either are too
        few or all alike, or a ratio would divide by 0.
    """
    rng, total = numpy_generator(random_state), sum(len(own) for own in rows.values())
    drawn = {
        group: _resample(metric, own, _count(level), round(_MAX_BLOCKS * len(own) / total), rng)
        for group, own in sorted(rows.items())
        if len(own) >= LEAST_ROWS
    }
    found = []
    for a, b in pairs:
        if not all(group in drawn and drawn[group].varies for group in (a, b)):
            found.append(_unknown(math.nan, level))
            continue
        first, other = drawn[a], drawn[b]
        if kind == "difference":
            value, draws, slopes = first.value - other.value, first.draws - other.draws, (1.0, -1.0)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                value = float(np.float64(first.value) / other.value)
                draws = first.draws / other.draws
            if not math.isfinite(value):
                found.append(_unknown(math.nan, level))
                continue
            slopes = 1 / other.value, -first.value / other.value**2
        cubes = slopes[0] ** 3 * first.cubes + slopes[1] ** 3 * other.cubes
        squares = slopes[0] ** 2 * first.squares + slopes[1] ** 2 * other.squares
        found.append(_interval(value, draws, level, "bca", _skew(cubes, squares)))
    return found


@dataclass(frozen=True)
class _Resampled:
    """A metric, its replicates, and the moments of the rows' influence that BCa asks for."""

    value: float
    draws: np.ndarray
    cubes: float
    squares: float

    @property
    def varies(self) -> bool:
        """Whether any resample differs from another, beyond rounding."""
        draws = self.draws[np.isfinite(self.draws)]
        return bool(len(draws) and np.ptp(draws) > 1e-12 * np.abs(draws).max())


def _unknown(value: float, level: float) -> Interval:
    return Interval(value, math.nan, math.nan, level, "too few rows, or all alike")


def _resample(
    metric: RowMetric, rows: np.ndarray, count: int, blocks: int, rng: np.random.Generator
) -> _Resampled:
    n, value = len(rows), metric(rows)
    function = of_weights({"": metric}, rows)
    step = max(1, CHUNK // n)
    draws = [
        function(multinomial_weights(np.full(min(step, count - start), n), n, rng))[""]
        for start in range(0, count, step)
    ]
    blocks = min(n, max(2, blocks))
    block = rng.permutation(n) * blocks // n
    deleted = function((block != np.arange(blocks)[:, None]).astype(np.uint8))[""]
    deleted = np.where(np.isfinite(deleted), deleted, value)
    influence = (blocks - 1) / blocks * (deleted.mean() - deleted)
    moments = float((influence**3).sum()), float((influence**2).sum())
    return _Resampled(value, np.concatenate(draws), *moments)


def _count(level: float) -> int:
    """Return how many resamples the ends of an interval ask for."""
    return max(1000, math.ceil(20 / (1 - level)))


def _skew(cubes: float, squares: float) -> float:
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0
