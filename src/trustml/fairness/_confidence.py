"""Intervals of group metrics: closed forms where there are some, the bootstrap for the rest.

All intervals come from ``trustml.evidence``; this module only says of what.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trustml.core.random import RandomState
from trustml.evidence import Interval, clopper_pearson, newcombe, proportion_ratio
from trustml.evidence._checks import check_probability
from trustml.evidence._two_proportions import difference_of, ratio_of
from trustml.fairness._limits import limits
from trustml.fairness._of_rows import OfRows as OfRows
from trustml.fairness._of_rows import RowMetric as RowMetric
from trustml.fairness._row_metrics import mean_error
from trustml.fairness._score_intervals import LEAST_ROWS, of_contrasts, of_metric
from trustml.fairness._simultaneous import pairwise_level
from trustml.warnings import SmallGroupWarning

_UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Sample:
    """The rows behind a ``GroupMetrics``.

    ``rates`` holds (successes, denominator) as booleans of the rows; ``others`` functions of row
    indices.
    """

    codes: np.ndarray
    n_groups: int
    rates: dict[str, tuple[np.ndarray, np.ndarray]]
    others: dict[str, RowMetric]

    def tally(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Successes and trials of a rate in each group, both (n_groups,)."""
        success, counts = self.rates[name]
        return (
            np.bincount(self.codes[success & counts], minlength=self.n_groups),
            np.bincount(self.codes[counts], minlength=self.n_groups),
        )

    def value(self, name: str, group: int | None = None) -> float:
        """Return a metric in one group, or over all rows; NaN where it is undefined."""
        if name in self.rates:
            hits, trials = self.tally(name)
            k, n = (hits.sum(), trials.sum()) if group is None else (hits[group], trials[group])
            return float(k / n) if n else math.nan
        return float(self.others[name](self.rows(group)))

    def values(self, name: str) -> np.ndarray:
        """Return a metric in every group, (n_groups,)."""
        if name not in self.rates:
            return np.array([self.value(name, group) for group in range(self.n_groups)])
        hits, trials = self.tally(name)  # once for all groups
        found = np.full(self.n_groups, np.nan)
        np.divide(hits, trials, out=found, where=trials > 0)
        return found

    def standard_errors(self, name: str) -> np.ndarray | None:
        """Return half the width of 68 % intervals, (n_groups,); None where these need draws."""
        found = np.full(self.n_groups, np.nan)
        for group in np.flatnonzero(np.isfinite(self.values(name))).tolist():
            interval = limits(self.others[name], self.rows(group), 0.6827)
            if interval is None:
                return None
            found[group] = (interval.high - interval.low) / 2
        return found

    def signed(self, name: str) -> bool:
        """Whether a metric may be negative, so that a ratio of it says nothing."""
        if name in self.rates:
            return False
        metric = self.others[name]
        if isinstance(metric, OfRows) and metric.metric is mean_error:
            return True
        return self.value(name) < 0 or bool((self.values(name) < 0).any())

    def rows(self, group: int | None = None) -> np.ndarray:
        """Row indices of a group, or all of them."""
        return np.arange(len(self.codes)) if group is None else np.flatnonzero(self.codes == group)


def intervals(
    sample: Sample,
    names: tuple[str, ...],
    of: str,
    reference: int,
    level: float,
    random_state: RandomState,
) -> np.ndarray:
    """Return what ``GroupMetrics.ci`` returns, (m, 2) or (groups, m, 2)."""
    rest = level, random_state
    if of == "by_group":
        groups = range(sample.n_groups)
        return np.array([[value_interval(sample, m, g, *rest) for m in names] for g in groups])
    if of == "signed_difference":
        each = [signed_intervals(sample, m, reference, *rest) for m in names]
        return np.swapaxes(np.array(each), 0, 1)
    if of == "overall":
        return np.array([value_interval(sample, m, None, *rest) for m in names])
    return np.array([contrast_interval(sample, m, of, reference, *rest) for m in names])


def warn_if_undefined(values: np.ndarray, names: tuple[str, ...], labels: tuple[Any, ...]) -> None:
    """Warn of metrics (k, m) that some group does not have."""
    missing = {
        name: [str(labels[g]) for g in np.flatnonzero(np.isnan(values[:, j]))]
        for j, name in enumerate(names)
        if np.isnan(values[:, j]).any()
    }
    if missing:
        warnings.warn(
            f"metrics are undefined in groups that have no row that counts: {missing}; these "
            "groups are left out of differences and ratios",
            SmallGroupWarning,
            stacklevel=4,
        )


def warn_if_unknown(values: np.ndarray, ends: np.ndarray, names: tuple[str, ...]) -> None:
    """Warn of metrics (..., m) that have a value and no interval (..., m, 2)."""
    missing = (np.isfinite(values) & np.isnan(ends).any(-1)).reshape(-1, len(names)).any(0)
    listed = [name for name, gone in zip(names, missing.tolist(), strict=True) if gone]
    if listed:
        warnings.warn(
            f"{listed} have no interval (NaN): some group has fewer than {LEAST_ROWS} rows, or its "
            "rows are all alike, and a bootstrap cannot tell what they have not shown",
            SmallGroupWarning,
            stacklevel=3,
        )


def value_interval(
    sample: Sample, name: str, group: int | None, level: float, random_state: RandomState
) -> tuple[float, float]:
    """Interval of a metric in one group (None: over all rows); exact for rates."""
    if name in sample.rates:
        hits, trials = sample.tally(name)
        k, n = (hits.sum(), trials.sum()) if group is None else (hits[group], trials[group])
        if n == 0:
            return _UNKNOWN
        exact = clopper_pearson(int(k), int(n), level)
        return exact.low, exact.high
    if math.isnan(sample.value(name, group)):
        return _UNKNOWN
    metric, rows = sample.others[name], sample.rows(group)
    found = limits(metric, rows, level) or of_metric(metric, rows, level, random_state)
    return found.low, found.high


def contrast_interval(
    sample: Sample,
    name: str,
    kind: str,
    reference: int,
    level: float,
    random_state: RandomState,
) -> tuple[float, float]:
    """Interval of the difference or ratio of a metric between groups; NaN where unknown."""
    if kind == "ratio" and sample.signed(name):
        return _UNKNOWN
    # More than two groups: the intervals of all pairs, held simultaneously by Tukey and Kramer's
    # critical value. Unlike the percentiles of a resampled max - min they can contain parity.
    if sample.n_groups == 2:
        pair = (1 - reference, reference)
        if any(math.isnan(sample.value(name, group)) for group in pair):
            return _UNKNOWN
        found = _pair_intervals(sample, name, kind, [pair], level, random_state)[0]
        return found.low, found.high
    defined = [g for g in range(sample.n_groups) if not math.isnan(sample.value(name, g))]
    pairs = list(combinations(defined, 2))
    if not pairs:
        return _UNKNOWN
    each = pairwise_level(check_probability(level, "level"), len(defined))
    intervals = _pair_intervals(sample, name, kind, pairs, each, random_state)
    if any(math.isnan(interval.low) for interval in intervals):
        return _UNKNOWN
    if kind == "difference":
        bounds = [_absolute(i) for i in intervals]
        return max(low for low, _ in bounds), max(high for _, high in bounds)
    bounds = [_below_one(i) for i in intervals]
    return min(low for low, _ in bounds), min(high for _, high in bounds)


def signed_intervals(
    sample: Sample, name: str, reference: int, level: float, random_state: RandomState
) -> list[tuple[float, float]]:
    """Intervals of every other group minus one, that hold together by Bonferroni's level."""
    others = [group for group in range(sample.n_groups) if group != reference]
    known = [g for g in others if not math.isnan(sample.value(name, g))]
    ends = dict.fromkeys(others, _UNKNOWN)
    if known and not math.isnan(sample.value(name, reference)):
        each = 1 - (1 - check_probability(level, "level")) / len(known)
        pairs = [(group, reference) for group in known]
        found = _pair_intervals(sample, name, "difference", pairs, each, random_state)
        ends |= {g: (i.low, i.high) for g, i in zip(known, found, strict=True)}
    return list(ends.values())


def _pair_intervals(
    sample: Sample,
    name: str,
    kind: str,
    pairs: list[tuple[int, int]],
    level: float,
    random_state: RandomState,
) -> list[Interval]:
    if name in sample.rates:
        hits, trials = sample.tally(name)
        closed_form = newcombe if kind == "difference" else proportion_ratio
        return [
            closed_form(int(hits[a]), int(trials[a]), int(hits[b]), int(trials[b]), level)
            for a, b in pairs
        ]
    rows = {group: sample.rows(group) for pair in pairs for group in pair}
    own = {group: limits(sample.others[name], r, level) for group, r in rows.items()}
    closed = {group: found for group, found in own.items() if found is not None}
    if len(closed) == len(own):
        recovered = difference_of if kind == "difference" else ratio_of
        return [recovered(closed[a], closed[b]) for a, b in pairs]
    return of_contrasts(sample.others[name], rows, kind, pairs, level, random_state)


def _absolute(interval: Interval) -> tuple[float, float]:
    """Bounds of |d| from bounds of d."""
    low, high = interval.low, interval.high
    ends = abs(low), abs(high)
    return (0.0 if low <= 0 <= high else min(ends)), max(ends)


def _below_one(interval: Interval) -> tuple[float, float]:
    """Bounds of min(r, 1/r) from bounds of r."""
    low, high = interval.low, interval.high
    inverse = 1 / high if high > 0 else math.inf
    least = min(low, inverse)
    if low <= 1 <= high:
        return least, 1.0
    return least, (high if high < 1 else 1 / low)
