"""Bootstrap replicates of group metrics: of the cells' counts where these say it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.core.validation import check_choice
from trustml.evidence._checks import check_count, check_probability
from trustml.fairness._confidence import Sample
from trustml.fairness._group_metrics import GroupMetrics
from trustml.fairness._named_array import NamedArray
from trustml.fairness._resampled import of_weights
from trustml.fairness._row_weights import multinomial_weights, poisson_weights
from trustml.fairness._score_intervals import CHUNK

_METHODS = ("multinomial", "poisson")


@dataclass(frozen=True, eq=False, repr=False)
class GroupReplicates(Result):
    """Bootstrap replicates of group metrics.

    Attributes
    ----------
    metrics : tuple of str
        Names of the m metrics.
    groups : tuple
        The k groups.
    by_group : numpy.ndarray of shape (B, k, m)
        Metrics of each group in each replicate; NaN where no drawn row counts.
    """

    metrics: tuple[str, ...]
    groups: tuple[Any, ...]
    by_group: np.ndarray

    def standard_errors(self) -> NamedArray:
        """Return the standard deviation over the replicates.

        Returns
        -------
        NamedArray of shape (k, m)
            Answers to groups and metrics; NaN where fewer than two replicates are defined.
        """
        defined = np.isfinite(self.by_group)
        n = defined.sum(0)
        values = np.where(defined, self.by_group, 0.0)
        centre = values.sum(0) / np.maximum(n, 1)
        squares = (np.where(defined, values - centre, 0.0) ** 2).sum(0)
        errors: np.ndarray = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
        return NamedArray(errors, self.metrics, self.groups)

    def ci(self, level: float = 0.95) -> NamedArray:
        """Return percentile intervals of each group's metrics.

        For differences between groups use ``GroupMetrics.ci``: the percentiles of a resampled
        largest minus smallest group never contain 0.

        Parameters
        ----------
        level : float in (0, 1)
            Confidence level of each interval by itself.

        Returns
        -------
        NamedArray of shape (k, m, 2)
            Answers to groups, metrics, "low" and "high"; NaN where no replicate is defined.
        """
        tail = (1 - check_probability(level, "level")) / 2
        ends = np.full((*self.by_group.shape[1:], 2), np.nan)
        for place in np.ndindex(self.by_group.shape[1:]):
            draws = self.by_group[(slice(None), *place)]
            draws = draws[np.isfinite(draws)]
            if len(draws):
                ends[place] = np.quantile(draws, [tail, 1 - tail])
        return NamedArray(ends, ("low", "high"), self.groups, middle=self.metrics)

    def _columns(self) -> dict[str, Any]:
        labels = np.array([str(g) for g in self.groups], dtype=object)
        errors = np.asarray(self.standard_errors()).T
        return {"group": labels} | {
            f"standard error of {name}": e for name, e in zip(self.metrics, errors, strict=True)
        }


def bootstrap_groups(
    g: GroupMetrics,
    n_resamples: int = 1000,
    *,
    method: str = "multinomial",
    stratify: bool = True,
    random_state: RandomState = None,
) -> GroupReplicates:
    """Return bootstrap replicates of the metrics of every group.

    Rates depend on the rows only through how many fall into each cell of group, label and
    decision: instead of rows the cells' counts are drawn, from the very law that drawing rows
    gives them, at a cost that does not grow with n. Means of rows and the area under the ROC curve
    take the weights of many replicates at once; any other metric is computed on the drawn rows.

    Parameters
    ----------
    g : GroupMetrics
        What ``group_metrics`` returned.
    n_resamples : int
        Replicates B, at least 2.
    method : {"multinomial", "poisson"}
        Rows with replacement, or an independent Poisson(1) weight for each row.
    stratify : bool
        "multinomial" draws within groups, so that every group keeps its size; False draws from
        all rows.
    random_state : int, Generator or None
        Seed of the draws.

    Returns
    -------
    GroupReplicates
        All rates share one draw of rows, and all other metrics another.

    Notes
    -----
    A ``ValueError`` says what is wrong if ``method`` is unknown or ``n_resamples`` is below 2.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 5 and 6.
    Chamandy et al. (2012), Estimating uncertainty for massive data streams (Poisson bootstrap).

    Examples
    --------
    >>> import numpy as np
    >>> from trustml.fairness import group_metrics
    >>> y, sex = np.tile([0, 1, 1], 100), np.repeat(["f", "m"], 150)
    >>> g = group_metrics(y, y, sensitive_features=sex, metrics=["selection_rate"])
    >>> draws = bootstrap_groups(g, 2000, random_state=0)
    >>> draws.by_group.shape
    (2000, 2, 1)
    >>> bool(abs(draws.standard_errors()[0, 0] - (2 / 9 / 150) ** 0.5) < 0.003)
    True
    """
    check_choice(method, "method", _METHODS)
    count = check_count(n_resamples, "n_resamples", least=2)
    sample, rng = sample_of(g), numpy_generator(random_state)
    values = np.empty((count, sample.n_groups, len(g.metrics)))
    found = _rates(sample, count, method, stratify, rng) if sample.rates else {}
    if sample.others:
        found |= _others(sample, count, method, stratify, rng)
    values = np.stack([found[name] for name in g.metrics], axis=2)
    return GroupReplicates(g.metrics, g.groups, values)


def sample_of(g: GroupMetrics) -> Sample:
    """Return the rows behind a report, or say that it is none."""
    if not isinstance(g, GroupMetrics):
        raise TypeError(
            f"g must be what group_metrics returns, got {type(g).__name__}; call "
            "group_metrics(y_true, y_pred, sensitive_features=...) first"
        )
    return g._sample


def _rates(
    sample: Sample, count: int, method: str, stratify: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Name -> replicates (count, k) of every rate, from drawn counts of the cells."""
    cell = sample.codes
    for success, counts in sample.rates.values():
        cell = 4 * cell + 2 * counts + (success & counts)
        filled = np.bincount(cell) > 0
        cell = (np.cumsum(filled) - 1)[cell]
    sizes = np.bincount(cell)
    row = np.empty(len(sizes), dtype=np.int64)
    row[cell] = np.arange(len(cell))  # one row of each cell; they are all alike
    group = sample.codes[row]
    drawn = _draw(sizes, group, count, method, stratify, rng)
    members = group[:, None] == np.arange(sample.n_groups)
    found = {}
    for name, (success, counts) in sample.rates.items():
        trials = drawn @ (members * counts[row, None]).astype(np.float64)
        hits = drawn @ (members * (success & counts)[row, None]).astype(np.float64)
        found[name] = np.divide(hits, trials, out=np.full_like(hits, np.nan), where=trials > 0)
    return found


def _draw(
    sizes: np.ndarray,
    group: np.ndarray,
    count: int,
    method: str,
    stratify: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """How often each cell is drawn, (count, len(sizes)) float64."""
    if method == "poisson":
        return rng.poisson(sizes, size=(count, len(sizes))).astype(np.float64)
    drawn = np.empty((count, len(sizes)))
    for code in np.unique(group) if stratify else [None]:
        own = np.flatnonzero(group == code) if stratify else np.arange(len(sizes))
        total = int(sizes[own].sum())
        drawn[:, own] = rng.multinomial(total, sizes[own] / total, size=count)
    return drawn


def _others(
    sample: Sample, count: int, method: str, stratify: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Name -> replicates (count, k) of every other metric, all on the same drawn rows."""
    sizes = np.bincount(sample.codes, minlength=sample.n_groups)
    totals = np.tile(sizes, (count, 1))
    if not stratify:
        totals = rng.multinomial(sizes.sum(), sizes / sizes.sum(), size=count)
    found = {name: np.empty((count, sample.n_groups)) for name in sample.others}
    for code, n in enumerate(sizes.tolist()):
        function = of_weights(sample.others, sample.rows(code))
        step = max(1, CHUNK // n)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            if method == "poisson":
                weights = poisson_weights(n, part.stop - start, rng)
            else:
                weights = multinomial_weights(totals[part, code], n, rng)
            for name, values in function(weights).items():
                found[name][part, code] = values
    return found
