"""The best threshold of each group, without chance, under a constraint: exact search."""

from __future__ import annotations

import numpy as np

from trustml.fairness._roc_curves import Curve, gains

_MOST = 4000  # thresholds of all groups that are tried under two constraints at once
_FEWEST = 100  # of one group
_ROUNDING = 1e-12


class RangeMaximum:
    """Answers "where between i and j is the largest value" at once, from maxima of runs of 2^k."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.best = [np.arange(len(values))]
        while 2 * (step := 2 ** (len(self.best) - 1)) <= len(values):
            left, right = self.best[-1][:-step], self.best[-1][step:]
            self.best.append(np.where(values[left] >= values[right], left, right))

    def at(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the position of the maximum of values[low:high], -1 where that is empty."""
        found = np.full(len(low), -1)
        length = high - low
        level = np.zeros(len(low), dtype=np.int64)
        level[length > 0] = np.log2(length[length > 0]).astype(np.int64)
        for k in np.unique(level[length > 0]):
            rows = np.flatnonzero((level == k) & (length > 0))
            left, right = self.best[k][low[rows]], self.best[k][high[rows] - 2**k]
            found[rows] = np.where(self.values[left] >= self.values[right], left, right)
        return found


def best_thresholds(
    curves: list[Curve], rates: tuple[str, ...], objective: str, tolerance: float
) -> list[int]:
    """Return the position of each group's threshold.

    Some group has the smallest value of a rate, and all others are then within ``tolerance``
    above it: every such value is tried, and each group takes its best threshold in that window.
    Under two constraints, at most about 4,000 thresholds are tried: of larger groups, those on
    the hull and some evenly spaced between.

    Parameters
    ----------
    curves : list of Curve
        One a group.
    rates : tuple of str
        One rate, or two that rise along each curve.
    objective : str
        Of ``OBJECTIVES``.
    tolerance : float in [0, 1]
        Allowed range of each rate over the groups. Deciding alike about all makes every rate but
        that of errors equal; where these come no closer, the smallest range that there is.

    Returns
    -------
    list of int
    """
    gain = gains(curves, objective)
    if len(rates) == 1:
        order = [np.argsort(c.rate(rates[0]), kind="stable") for c in curves]
        levels = [c.rate(rates[0])[o] for c, o in zip(curves, order, strict=True)]
        tables = [RangeMaximum(v[o]) for v, o in zip(gain, order, strict=True)]
        starts = _defined(levels)
        low, high = _windows(levels, starts, max(tolerance, _narrowest(levels, starts)))
        sums, places = _maxima(tables, low, high)
        return [int(o[p]) for o, p in zip(order, places[sums.argmax()], strict=True)]
    kept = [_thinned(c, max(_FEWEST, _MOST // len(curves))) for c in curves]
    curves = [c.take(k) for c, k in zip(curves, kept, strict=True)]
    tables = [RangeMaximum(v[k]) for v, k in zip(gain, kept, strict=True)]
    first, second = ([c.rate(name) for c in curves] for name in rates)
    low1, high1 = _windows(first, _defined(first), tolerance)
    # What the first window allows bounds what both do: the most promising first, till none is.
    bounds, _ = _maxima(tables, low1, high1)
    best, chosen = -np.inf, np.zeros(len(curves), dtype=np.int64)
    for row in np.argsort(-bounds, kind="stable"):
        if bounds[row] <= best:
            break
        inside = [s[a:b] for s, a, b in zip(second, low1[row], high1[row], strict=True)]
        low2, high2 = _windows(second, _defined(inside), tolerance)
        low2, high2 = np.maximum(low2, low1[row]), np.minimum(high2, high1[row])
        sums, places = _maxima(tables, low2, high2)
        if sums.max() > best:
            best, chosen = sums.max(), places[sums.argmax()]
    return [int(k[p]) for k, p in zip(kept, chosen, strict=True)]


def _defined(levels: list[np.ndarray]) -> np.ndarray:
    values = np.unique(np.concatenate(levels))
    return np.asarray(values[~np.isnan(values)])


def _narrowest(levels: list[np.ndarray], starts: np.ndarray) -> float:
    """Width of the narrowest window with a level of every group."""
    ends = [
        np.append(v, np.inf)[np.searchsorted(v, starts)] for v in levels if not np.isnan(v).any()
    ]
    return float((np.max(ends, axis=0) - starts).min())


def _windows(
    levels: list[np.ndarray], starts: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """First and past-last position (n_starts, n_groups) of the sorted levels in each window."""
    low = [np.searchsorted(v, starts - _ROUNDING) for v in levels]
    high = [np.searchsorted(v, starts + tolerance + _ROUNDING, side="right") for v in levels]
    for g, values in enumerate(levels):
        if np.isnan(values).any():  # a rate that this group does not have binds it nowhere
            low[g], high[g] = np.zeros_like(low[g]), np.full_like(high[g], len(values))
    return np.stack(low, axis=1), np.stack(high, axis=1)


def _maxima(
    tables: list[RangeMaximum], low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (n,) of the groups' maxima over windows, and their places (n, n_groups)."""
    places = np.stack([t.at(low[:, g], high[:, g]) for g, t in enumerate(tables)], axis=1)
    sums = np.sum([t.values[places[:, g]] for g, t in enumerate(tables)], axis=0)
    return np.where((places >= 0).all(axis=1), sums, -np.inf), places


def _thinned(curve: Curve, most: int) -> np.ndarray:
    k = len(curve.thresholds)
    if k <= most:
        return np.arange(k)
    spaced = np.linspace(0, k - 1, most).astype(np.int64)
    return np.union1d(spaced, curve.hull())
