"""Gaps between true groups, measured with a sensitive attribute that is recorded with errors."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.results import Result
from trustml.core.validation import check_alpha, check_choice, check_finite, to_numpy
from trustml.fairness._assert_fair import RATES_OF
from trustml.fairness._gap_bounds import critical
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._proxy import CRITERIA_OF_RATES
from trustml.fairness._rates import as_decisions, rate_masks
from trustml.warnings import ApproximationWarning


@dataclass(frozen=True, eq=False, repr=False)
class NoisyGroups(Result):
    """Rates of true groups and their differences, freed of errors in the recorded groups.

    Attributes
    ----------
    criterion : str
        What was compared.
    gap : float
        Largest unsigned difference between groups over the rates of the criterion.
    interval : tuple of float
        Of the gap, from all differences held simultaneously.
    recorded_gap : float
        The gap between the groups as they were recorded.
    metrics : tuple of str
        The m rates of the criterion.
    groups : tuple
        The k groups, sorted.
    by_group : numpy.ndarray of shape (k, m)
        Rates of the true groups; outside [0, 1] where the error rates do not fit the rows.
    pairs : tuple of (object, object)
        All pairs of groups; a difference is the second's rate minus the first's.
    difference, low, high : numpy.ndarray of shape (number of pairs, m)
        Differences, and their simultaneous intervals.
    alpha : float
        Chance that any interval misses.
    """

    criterion: str
    gap: float
    interval: tuple[float, float]
    recorded_gap: float
    metrics: tuple[str, ...]
    groups: tuple[Any, ...]
    by_group: np.ndarray
    pairs: tuple[tuple[Any, Any], ...]
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    alpha: float

    def _columns(self) -> dict[str, Any]:
        m, repeats = len(self.metrics), len(self.pairs)
        return {
            "metric": np.repeat(np.array(self.metrics, dtype=object), repeats),
            "group": np.array([str(b) for _, b in self.pairs] * m, dtype=object),
            "minus": np.array([str(a) for a, _ in self.pairs] * m, dtype=object),
            "difference": self.difference.T.ravel(),
            "low": self.low.T.ravel(),
            "high": self.high.T.ravel(),
        }

    def _title(self) -> str:
        low, high = self.interval
        return (
            f"NoisyGroups: {self.criterion} gap {self.gap:.3g} [{low:.3g}, {high:.3g}], between "
            f"the recorded groups {self.recorded_gap:.3g}"
        )


def noisy_groups(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    confusion: Any,
    criterion: str = "equalized_odds",
    alpha: float = 0.05,
    pos_label: Any = None,
) -> NoisyGroups:
    """Correct a gap for known error rates of the recorded groups.

    Errors mix the groups, so a gap between recorded groups is too small. If the errors have
    nothing to do with label and decision given the true group, the counts of the recorded groups
    are the confusion matrix times those of the true ones, and its inverse gives these back.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, d), frame, series or dict of columns
        Groups as recorded.
    confusion : array of shape (k, k)
        P(recorded group | true group): a row for each true group, a column for each recorded one,
        both in the sorted order of the groups; rows sum to 1. It needs an inverse.
    criterion : str
        As of ``proxy_bounds``.
    alpha : float in (0, 1)
        Chance that any of the intervals misses: all groups and rates together (Bonferroni).
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    NoisyGroups
        Intervals are by the delta method: large samples. Error rates that are estimates
        themselves make them wider than shown.

    Warns
    -----
    ApproximationWarning
        If a corrected rate is outside [0, 1], or no row of a group is left to count.

    References
    ----------
    Chen et al. (2019), Fairness under unawareness, arXiv:1811.11154. Awasthi et al. (2020),
    Equalized odds postprocessing under imperfect group information, arXiv:1906.03284.

    Examples
    --------
    >>> import numpy as np
    >>> recorded = np.repeat(["f", "m"], 100)
    >>> decided = np.tile([0, 0, 0, 1, 1, 0, 1, 1, 1, 1], 20)
    >>> decided[:100] = np.repeat([1, 0], [38, 62])
    >>> decided[100:] = np.repeat([1, 0], [62, 38])
    >>> found = noisy_groups(
    ...     decided, decided, sensitive_features=recorded, criterion="demographic_parity",
    ...     confusion=[[0.8, 0.2], [0.2, 0.8]],
    ... )
    >>> round(found.recorded_gap, 2), round(found.gap, 2)
    (0.24, 0.4)
    """
    check_choice(criterion, "criterion", CRITERIA_OF_RATES)
    check_aligned(y_true=y_true, y_pred=y_pred, sensitive_features=sensitive_features)
    decisions, alpha = as_decisions(y_true, y_pred, pos_label), check_alpha(alpha)
    groups = as_groups(sensitive_features, len(decisions.y_true))
    k, n = len(groups.labels), len(groups.codes)
    unmix = _inverse(confusion, groups).T  # (true, recorded)
    names, pairs = RATES_OF[criterion], list(combinations(range(k), 2))
    by_group = np.empty((k, len(names)))
    difference, error = np.empty((2, len(pairs), len(names)))
    recorded = []
    for j, name in enumerate(names):
        success, counts = rate_masks(name, decisions)
        success = success & counts
        hits, trials = (
            np.bincount(groups.codes[rows], minlength=k) / n for rows in (success, counts)
        )
        true_trials = unmix @ trials
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.where(true_trials > 0, unmix @ hits / true_trials, math.nan)
            spoken = np.where(trials > 0, hits / trials, math.nan)
        recorded.append(np.nanmax(spoken) - np.nanmin(spoken))
        by_group[:, j] = rates
        # Influence of one row on each rate, by its recorded group and by whether it is a success.
        slope = unmix / true_trials[:, None]
        of_hit, of_miss = slope * (1 - rates[:, None]), slope * -rates[:, None]
        for i, (a, b) in enumerate(pairs):
            difference[i, j] = rates[b] - rates[a]
            hit, miss = of_hit[b] - of_hit[a], of_miss[b] - of_miss[a]
            # Its mean over all rows is 0, by the definition of the rates.
            error[i, j] = math.sqrt((hits * hit**2 + (trials - hits) * miss**2).sum() / n)
    half = critical(alpha / (2 * difference.size)) * error
    low, high = difference - half, difference + half
    if not (np.isfinite(by_group).all() and by_group.min() >= 0 and by_group.max() <= 1):
        warnings.warn(
            f"corrected rates {dict(zip(groups.labels, by_group.round(3).tolist(), strict=True))} "
            "are not all in [0, 1]: the error rates do not fit these rows, or there are too few",
            ApproximationWarning,
            stacklevel=2,
        )
    least = np.maximum(0, np.maximum(low, -high))
    return NoisyGroups(
        criterion,
        float(abs(difference).max()),
        (float(least.max()), float(np.maximum(-low, high).max())),
        float(np.max(recorded)),
        names,
        groups.labels,
        by_group,
        tuple((groups.labels[a], groups.labels[b]) for a, b in pairs),
        difference,
        low,
        high,
        alpha,
    )


def _inverse(confusion: Any, groups: Groups) -> np.ndarray:
    matrix, k = to_numpy(confusion).astype(np.float64), len(groups.labels)
    if matrix.shape != (k, k):
        raise ValueError(
            f"confusion must have shape ({k}, {k}), a row and a column for each of the groups "
            f"{list(groups.labels)}, got {matrix.shape}"
        )
    check_finite(matrix, "confusion")
    if matrix.min() < 0 or abs(matrix.sum(1) - 1).max() > 1e-6:
        raise ValueError("rows of confusion are P(recorded | true group): at least 0, sum 1")
    if np.linalg.cond(matrix) > 1e6:
        raise ValueError("confusion has no inverse: what is recorded tells nothing of some groups")
    return np.linalg.inv(matrix)
