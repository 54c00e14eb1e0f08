"""Is a gap more than noise: permutation tests, and the gap that the rows can show at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.evidence import adjust
from trustml.evidence._checks import check_count, check_probability
from trustml.evidence._tests import permutation_pvalue
from trustml.fairness._bootstrap import bootstrap_groups, sample_of
from trustml.fairness._confidence import Sample
from trustml.fairness._group_metrics import GroupMetrics
from trustml.fairness._named_array import NamedArray
from trustml.fairness._simultaneous import critical_value


@dataclass(frozen=True, eq=False, repr=False)
class GapTest(Result):
    """Permutation tests of the hypothesis that groups do not differ.

    Attributes
    ----------
    metrics : tuple of str
        Names of the m metrics.
    groups : tuple
        The k groups.
    gap : array of shape (m,)
        Largest minus smallest group; NaN if fewer than two groups have the metric.
    p_values : array of shape (m,)
        Of the gap, in (0, 1]; NaN as above.
    group_p_values : array of shape (k, m)
        Of each group's distance to all rows, adjusted over the groups by Holm's method; NaN
        where the metric is undefined.
    """

    metrics: tuple[str, ...]
    groups: tuple[Any, ...]
    gap: np.ndarray
    p_values: np.ndarray
    group_p_values: np.ndarray

    def _columns(self) -> dict[str, Any]:
        names = np.array(self.metrics, dtype=object)
        table = {"metric": names, "gap": np.asarray(self.gap), "p": np.asarray(self.p_values)}
        each = {f"p of {g}": row for g, row in zip(self.groups, self.group_p_values, strict=True)}
        return table | each


def gap_test(
    g: GroupMetrics, n_permutations: int = 999, random_state: RandomState = None
) -> GapTest:
    """Test each metric's gap by shuffling which row is in which group.

    Shuffled are the rows that a rate counts: the true positive rate keeps every group's number
    of positives. Their counts are drawn from the hypergeometric law of such shuffles, so a rate's
    cost does not grow with n; other metrics are computed on shuffled rows.

    Parameters
    ----------
    g : GroupMetrics
        What ``group_metrics`` returned.
    n_permutations : int
        Shuffles B; the smallest p-value is 1 / (B + 1).
    random_state : int, Generator or None
        Seed of the shuffles.

    Returns
    -------
    GapTest
        Each p-value is valid at any number of rows; metrics are not adjusted for one another.

    Notes
    -----
    A ``ValueError`` says what is wrong if ``n_permutations`` is below 1.

    References
    ----------
    DiCiccio et al. (2020), Evaluating fairness using permutation tests.
    Holm (1979), A simple sequentially rejective multiple test procedure.

    Examples
    --------
    >>> import numpy as np
    >>> from trustml.fairness import group_metrics
    >>> y, sex = np.tile([0, 1, 1], 100), np.repeat(["f", "m"], 150)
    >>> g = group_metrics(y, y, sensitive_features=sex, metrics=["selection_rate"])
    >>> gap_test(g, random_state=0).p_values["selection_rate"]
    1.0
    """
    count = check_count(n_permutations, "n_permutations")
    sample, rng = sample_of(g), numpy_generator(random_state)
    p_values = np.full(len(g.metrics), np.nan)
    each = np.full((len(g.groups), len(g.metrics)), np.nan)
    for j, name in enumerate(g.metrics):
        observed = np.asarray(g.by_group)[:, j]
        defined = np.isfinite(observed)
        if defined.sum() < 2:
            continue
        shuffled = _shuffled(sample, name, count, rng)[:, defined]
        observed, centre = observed[defined], sample.value(name)
        p_values[j] = _p_value(float(np.ptp(observed)), np.ptp(shuffled, axis=1))
        apart, draws = abs(observed - centre), abs(shuffled - centre)
        own = np.array([_p_value(float(a), d) for a, d in zip(apart, draws.T, strict=True)])
        # Two groups are one hypothesis: each differs from all rows where the other does.
        each[defined, j] = adjust(own, "holm") if len(own) > 2 else p_values[j]
    names = g.metrics
    return GapTest(
        names,
        g.groups,
        NamedArray(g.difference(), names),
        NamedArray(p_values, names),
        NamedArray(each, names, g.groups),
    )


def minimum_detectable_gap(
    g: GroupMetrics, *, level: float = 0.95, power: float = 0.8, random_state: RandomState = None
) -> NamedArray:
    """Return the gap that would be told from none, whichever two groups it lay between.

    A smaller true gap is likely to pass unseen: an interval that contains 0 then says that there
    are too few rows, not that the model is fair. From the normal approximation.

    Parameters
    ----------
    g : GroupMetrics
        What ``group_metrics`` returned.
    level : float in (0, 1)
        Level of the intervals, simultaneous over all pairs of groups.
    power : float in (0, 1)
        Probability with which the interval of that pair leaves 0 out.
    random_state : int, Generator or None
        Seed of the bootstrap behind metrics that are no rates.

    Returns
    -------
    numpy.ndarray of shape (m,)
        In the metric's unit; above 1 for a rate that the smallest groups cannot show at all, NaN
        if fewer than two groups have the metric.

    Notes
    -----
    A ``ValueError`` says what is wrong if ``level`` or ``power`` is not inside (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from trustml.fairness import group_metrics
    >>> y, sex = np.tile([0, 1], 100), np.repeat(["f", "m"], 100)
    >>> g = group_metrics(y, y, sensitive_features=sex, metrics=["selection_rate"])
    >>> round(minimum_detectable_gap(g)["selection_rate"], 2)
    0.2
    """
    from scipy.special import ndtri

    level, power = check_probability(level, "level"), check_probability(power, "power")
    sample = sample_of(g)
    closed = {name: sample.standard_errors(name) for name in sample.others}
    errors = np.empty((0, 0))
    if any(own is None for own in closed.values()):
        errors = np.asarray(bootstrap_groups(g, 500, random_state=random_state).standard_errors())
    found = np.full(len(g.metrics), np.nan)
    for j, name in enumerate(g.metrics):
        if name in sample.rates:
            hits, trials = sample.tally(name)
            trials = trials[trials > 0]
            pooled = (hits.sum() + 1) / (trials.sum() + 2)  # never 0, however rare the successes
            variances = pooled * (1 - pooled) / trials
        else:
            own = closed[name]
            own = errors[:, j] if own is None else own
            variances = own[np.isfinite(own)] ** 2
        if len(variances) < 2:
            continue
        worst = np.sort(variances)[-2:].sum() ** 0.5
        found[j] = (critical_value(level, len(variances)) + ndtri(power)) * worst
    return NamedArray(found, g.metrics)


def _shuffled(sample: Sample, name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Values (count, k) of a metric in shuffled groups."""
    if name in sample.rates:
        hits, trials = sample.tally(name)
        drawn = rng.multivariate_hypergeometric(trials, int(hits.sum()), size=count)
        values = np.full(drawn.shape, np.nan)
        np.divide(drawn, trials, out=values, where=trials > 0)
        return values
    metric, groups = sample.others[name], range(sample.n_groups)
    values = np.empty((count, sample.n_groups))
    for b in range(count):
        codes = rng.permutation(sample.codes)
        values[b] = [metric(np.flatnonzero(codes == code)) for code in groups]
    return values


def _p_value(observed: float, shuffled: np.ndarray) -> float:
    """Share of shuffles at least as large; one that leaves the gap undefined counts as such."""
    return permutation_pvalue(observed, np.where(np.isnan(shuffled), observed, shuffled), "greater")
