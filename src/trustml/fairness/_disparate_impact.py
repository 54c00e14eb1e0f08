"""Columns whose distributions are moved towards one that all groups share."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from trustml.core.alignment import check_aligned
from trustml.fairness._group_transformer import GroupTransformer, check_share, like_table, numbers
from trustml.fairness._groups import as_groups
from trustml.fairness._known_groups import check_given, group_codes


class DisparateImpactRemover(GroupTransformer):
    r"""Give every group the same distribution of each column, and keep the order within groups.

    A value at quantile u of its group moves to the median over groups of their values at u. Equal
    values share the stretch of quantiles that they fill, and move to the mean over it: so all
    groups have exactly the same means, and the same distributions where ties are few. A column of
    few values cannot be repaired further without chance.

    Parameters
    ----------
    repair_level : float in [0, 1]
        0 leaves the columns, 1 repairs them fully; between, values go this share of the way.

    Attributes
    ----------
    groups_ : list
        Those seen in ``fit``.

    References
    ----------
    Feldman et al. (2015), Certifying and removing disparate impact, arXiv:1412.3756.

    Examples
    --------
    >>> X, s = [[1.0], [2.0], [5.0], [8.0]], ["a", "a", "b", "b"]
    >>> DisparateImpactRemover().fit_transform(X, sensitive_features=s).ravel()
    array([3., 5., 3., 5.])
    """

    def __init__(self, repair_level: float = 1.0) -> None:
        self.repair_level = repair_level

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Self:
        """Learn the groups' distributions of each column.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        y : object
            Not looked at.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.

        Returns
        -------
        DisparateImpactRemover
            Itself.
        """
        check_given(self, "fit", sensitive_features)
        check_share(self.repair_level, "repair_level")
        check_aligned(X=X, sensitive_features=sensitive_features)
        rows = numbers(self, X)
        self._groups = as_groups(sensitive_features, len(rows))
        self.groups_ = list(self._groups.labels)
        members = [np.flatnonzero(self._groups.codes == g) for g in range(len(self.groups_))]
        sizes = np.array([len(m) for m in members])
        # Every quantile function is constant between these.
        edges = np.unique(np.concatenate([np.arange(n + 1) / n for n in sizes]))
        middle = (edges[1:] + edges[:-1]) / 2
        place = [np.minimum((middle * n).astype(np.int64), n - 1) for n in sizes]
        self._moves = []
        for column in rows.T:
            sorted_ = [np.sort(column[m]) for m in members]
            target = np.median([v[p] for v, p in zip(sorted_, place, strict=True)], axis=0)
            integral = np.concatenate([[0.0], np.cumsum(target * np.diff(edges))])
            self._moves.append([_move(values, edges, integral) for values in sorted_])
        return self

    def transform(self, X: Any, *, sensitive_features: Any = None) -> Any:
        """Return repaired columns; values between those of ``fit`` are interpolated.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers. Beyond the group's range in ``fit`` a value moves as the nearest within.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Of these rows; groups of ``fit``.

        Returns
        -------
        array or frame of shape (n, d)
            In the kind of ``X``, names kept.
        """
        check_is_fitted(self)
        check_given(self, "transform", sensitive_features)
        rows = numbers(self, X, reset=False)
        codes = group_codes(sensitive_features, len(rows), self._groups)
        repaired = rows.copy()
        for g in np.unique(codes):
            mine = np.flatnonzero(codes == g)
            for j, moves in enumerate(self._moves):
                known, moved = moves[g]
                values = rows[mine, j]
                inside = np.clip(values, known[0], known[-1])
                whole = np.interp(inside, known, moved) + (values - inside)
                repaired[mine, j] = (1 - self.repair_level) * values + self.repair_level * whole
        return like_table(repaired, X)


def _move(
    values: np.ndarray, edges: np.ndarray, integral: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sorted values of a group, and the mean of the target over the quantiles of each."""
    known, counts = np.unique(values, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)]) / len(values)
    moved = np.diff(np.interp(ends, edges, integral)) / np.diff(ends)
    return known, np.maximum.accumulate(moved)
