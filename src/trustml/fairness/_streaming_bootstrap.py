"""A bootstrap of group metrics for rows that come in parts, or lie on several machines."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.random import _mixed, row_uniforms
from trustml.core.validation import check_same_length
from trustml.evidence._checks import check_count
from trustml.fairness._bootstrap import GroupReplicates
from trustml.fairness._groups import _columns, _refuse_missing, _sorted_unique
from trustml.fairness._metric_names import choose
from trustml.fairness._named_array import NamedArray
from trustml.fairness._rates import as_decisions
from trustml.fairness._resampled import mean_columns
from trustml.fairness._row_metrics import as_score
from trustml.fairness._row_weights import hashed_poisson

_CELLS = 2**16  # weights at a time: these stay in the cache


class StreamingBootstrap:
    """Poisson bootstrap of rates and means in each group, row by row and mergeable.

    A row's weight in a replicate is a hash of its identity, Poisson distributed: whoever sees the
    row gives it the same weight. So nothing but sums is kept, the order of the rows does not
    matter, and the sums of two parts add up to those of the whole.

    Parameters
    ----------
    metrics : list of str
        Rates, and means of scores or numbers (all metrics of ``group_metrics`` but those that
        need all rows at once, such as "roc_auc").
    n_resamples : int
        Replicates, at least 2.
    seed : int
        Of the hash; parts that are to be merged have the same.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Attributes
    ----------
    groups_ : tuple
        The k groups seen so far, sorted.
    by_group_ : array of shape (k, m)
        The metrics on the rows seen so far; NaN where no row counts.
    n_rows_ : int
        Rows seen so far.

    References
    ----------
    Chamandy et al. (2012), Estimating uncertainty for massive data streams.

    Examples
    --------
    >>> import numpy as np
    >>> y, sex, ids = np.tile([0, 1, 1], 100), np.repeat(["f", "m"], 150), np.arange(300)
    >>> parts = [
    ...     StreamingBootstrap(["selection_rate"]).update(
    ...         y[i], y[i], sensitive_features=sex[i], row_ids=ids[i]
    ...     )
    ...     for i in (ids < 100, ids >= 100)
    ... ]
    >>> whole = parts[0].merge(parts[1])
    >>> whole.by_group_["m"]["selection_rate"] == 2 / 3
    True
    >>> whole.replicates().by_group.shape
    (1000, 2, 1)
    """

    def __init__(
        self, metrics: Any, *, n_resamples: int = 1000, seed: int = 0, pos_label: Any = None
    ) -> None:
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        if not self.metrics or not all(isinstance(name, str) for name in self.metrics):
            raise ValueError(f"metrics must be names of metrics, got {metrics!r}")
        self.n_resamples = check_count(n_resamples, "n_resamples", least=2)
        self.seed = check_count(seed, "seed", least=0)
        self.pos_label = pos_label
        self.n_rows_ = 0
        self._keys = np.random.PCG64(self.seed).random_raw(self.n_resamples)
        # group -> sums (1 + B, 2 m) of what is averaged and of what counts; the first has weight 1
        self._sums: dict[Any, np.ndarray] = {}

    def update(
        self,
        y_true: Any,
        y_pred: Any,
        *,
        sensitive_features: Any,
        row_ids: Any,
        y_score: Any = None,
    ) -> Self:
        """Add rows.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n,)
            True and predicted labels or numbers.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership; a part may have one group only.
        row_ids : array of shape (n,), numbers or strings
            What tells a row from all others, in every part.
        y_score : array of shape (n,) or (n, 2), optional
            Probability of the favourable class, or of both labels, sorted; for metrics of scores.

        Returns
        -------
        StreamingBootstrap
            Itself.

        Raises
        ------
        ValueError
            If lengths differ, an identity occurs twice in this part, or a metric is no mean of
            rows. Identities are not kept: a row that was in an earlier part counts twice.
        """
        others = {"row_ids": row_ids, "sensitive_features": sensitive_features}
        check_aligned(y_true=y_true, y_pred=y_pred, y_score=y_score, **others)
        decisions = as_decisions(y_true, y_pred, self.pos_label)
        n = len(decisions.y_true)
        ids = np.asarray(row_ids)
        check_same_length(y_true=decisions.y_true, row_ids=ids)
        if len(np.unique(ids)) < n:
            raise ValueError("row_ids must be different for each row: weights are made of them")
        score = None if y_score is None else as_score(y_score, decisions)
        chosen = choose(list(self.metrics), decisions, score)
        if chosen.names != self.metrics:
            raise ValueError(f"metrics {self.metrics} need binary labels here; pass pos_label=")
        columns = np.empty((n, 2 * len(self.metrics)))
        for j, name in enumerate(self.metrics):
            if name in chosen.rates:
                success, counts = chosen.rates[name]
                found: Any = (success & counts, counts)
            else:
                found = mean_columns(chosen.others[name], np.arange(n))
            if found is None:
                raise ValueError(
                    f"metric {name!r} is no mean of rows, so parts of it do not add up; use "
                    "group_metrics and bootstrap_groups on all rows"
                )
            columns[:, 2 * j], columns[:, 2 * j + 1] = found
        groups = _row_groups(sensitive_features, n)
        base = (row_uniforms(ids[:, None], self.seed) * 2.0**52).astype(np.uint64)
        for label in dict.fromkeys(groups):
            rows = np.array([i for i, group in enumerate(groups) if group == label])
            self._sums[label] = self._sums.get(label, 0.0) + self._weighted(
                base[rows], columns[rows]
            )
        self.n_rows_ += n
        return self

    def merge(self, other: StreamingBootstrap) -> StreamingBootstrap:
        """Return the bootstrap of this part's rows and another's.

        Parameters
        ----------
        other : StreamingBootstrap
            Of other rows, with the same settings.

        Returns
        -------
        StreamingBootstrap
            A new one; a row that both have counts twice.

        Raises
        ------
        ValueError
            If metrics, number of replicates, seed or ``pos_label`` differ.
        """
        for name in ("metrics", "n_resamples", "seed", "pos_label"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"parts to merge need the same {name}, got {getattr(self, name)!r} and "
                    f"{getattr(other, name)!r}"
                )
        both = StreamingBootstrap(
            self.metrics,
            n_resamples=self.n_resamples,
            seed=self.seed,
            pos_label=self.pos_label,
        )
        for part in (self, other):
            both.n_rows_ += part.n_rows_
            for label, sums in part._sums.items():
                both._sums[label] = both._sums.get(label, 0.0) + sums
        return both

    @property
    def groups_(self) -> tuple[Any, ...]:
        """The groups seen so far, sorted."""
        return tuple(_sorted_unique(list(self._sums)))

    @property
    def by_group_(self) -> NamedArray:
        """The metrics of each group on the rows seen so far."""
        return NamedArray(self._values()[0], self.metrics, self.groups_)

    def replicates(self) -> GroupReplicates:
        """Return the replicates of every group's metrics.

        Returns
        -------
        GroupReplicates
            With standard errors and percentile intervals.
        """
        return GroupReplicates(self.metrics, self.groups_, self._values()[1:])

    def _values(self) -> np.ndarray:
        if not self._sums:
            raise ValueError("no rows yet: call update")
        sums = np.stack([self._sums[label] for label in self.groups_], axis=1)
        totals, counts = sums[..., ::2], sums[..., 1::2]
        values: np.ndarray = np.divide(
            totals, counts, out=np.full_like(totals, np.nan), where=counts > 0
        )
        return values

    def _weighted(self, base: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the sums of the columns in each replicate, after those without weights."""
        sums = np.zeros((1 + self.n_resamples, columns.shape[1]))
        sums[0] = columns.sum(0)
        step = max(1, _CELLS // self.n_resamples)
        for start in range(0, len(base), step):
            rows = slice(start, start + step)
            words = _mixed(self._keys[:, None] ^ base[rows])
            sums[1:] += hashed_poisson(words).astype(np.float64) @ columns[rows]
        return sums


def _row_groups(sensitive_features: Any, n: int) -> list[Any]:
    """Group of each row; unlike ``as_groups`` it does not ask for two."""
    columns = _columns(sensitive_features)
    for name, values in columns.items():
        if len(values) != n:
            raise ValueError(f"sensitive column {name!r} must have {n} rows, got {len(values)}")
        _refuse_missing(values, name)
    parts = [values.tolist() for values in columns.values()]
    return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
