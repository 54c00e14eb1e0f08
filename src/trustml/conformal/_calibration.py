"""Calibration scores by group: thresholds and p-values, with one warning a question."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.core.validation import column_of, to_numpy
from trustml.evidence import conformal_rank, pvalues, quantile
from trustml.evidence import read_alphas as read_alphas  # what every predictor asks for here
from trustml.warnings import CoverageWarning

Condition = Callable[[Any], Any] | str | int
_SHOWN = 5  # groups that a warning names


class CalibrationScores:
    """Scores of the calibration rows, apart for each group.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN; higher = stranger.
    groups : ndarray of shape (n,) or None
        Any labels; None puts all rows in one group.
    labels : ndarray or None
        All groups that there are, when some may have no rows.
    """

    def __init__(
        self, scores: np.ndarray, groups: np.ndarray | None = None, labels: np.ndarray | None = None
    ) -> None:
        self.grouped = groups is not None
        groups = np.zeros(len(scores), dtype=int) if groups is None else groups
        self.labels = np.unique(groups) if labels is None else labels
        self.by_group = [np.sort(scores[groups == label]) for label in self.labels]

    @property
    def sizes(self) -> list[int]:
        """Calibration rows of each group."""
        return [len(scores) for scores in self.by_group]

    def codes(self, groups: np.ndarray) -> np.ndarray:
        """Return the position of each group; one past the end for a group never seen.

        Returns
        -------
        int ndarray of shape (n,)

        Raises
        ------
        ValueError
            If numbers and strings are mixed.
        """
        if (groups.dtype.kind in "US") != (self.labels.dtype.kind in "US"):
            raise ValueError(
                f"condition gave groups of dtype {self.labels.dtype} in calibration and "
                f"{groups.dtype} now; give labels of one kind"
            )
        order = np.argsort(self.labels, kind="stable")
        place = np.searchsorted(self.labels[order], groups).clip(max=len(order) - 1)
        return np.where(self.labels[order][place] == groups, order[place], len(self.labels))

    def thresholds(
        self, alphas: list[Fraction], asked: np.ndarray, stacklevel: int = 2
    ) -> np.ndarray:
        """Return (groups + 1, m) thresholds; the last row is that of groups never seen.

        Parameters
        ----------
        alphas : list of Fraction
            Error rates.
        asked : int ndarray
            Codes that the caller will look up: only these can warn.
        stacklevel : int
            Whose line a warning names, from here: 2 is the caller of the method that asks.

        Returns
        -------
        ndarray of shape (groups + 1, m)
        """
        out = np.full((len(self.by_group) + 1, len(alphas)), math.inf)
        for g, scores in enumerate(self.by_group):
            for a, alpha in enumerate(alphas):
                if conformal_rank(len(scores), alpha) <= len(scores):
                    out[g, a] = quantile(scores, alpha)
        self._warn_if_too_small(min(alphas), np.unique(asked), stacklevel + 2)
        return out

    def p_values(self, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return p-values of scores (n,) or (n, k), each against its group's rows."""
        p = np.ones(scores.shape)
        codes = np.broadcast_to(codes, scores.shape)
        for g, calibration in enumerate(self.by_group):
            mine = codes == g
            # Against no rows at all every p-value is 1, which p holds already.
            if len(calibration) and mine.any():
                p[mine] = pvalues(calibration, scores[mine])
        return p

    def _warn_if_too_small(self, alpha: Fraction, asked: np.ndarray, stacklevel: int) -> None:
        sizes = [*self.sizes, 0]
        short = [g for g in asked.tolist() if conformal_rank(sizes[g], alpha) > sizes[g]]
        if not short:
            return
        needed = math.ceil(1 / alpha) - 1
        if self.grouped:
            names = [*map(str, self.labels.tolist()), "groups not seen in calibration"]
            listed = ", ".join(f"{names[g]} ({sizes[g]})" for g in short[:_SHOWN])
            more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
            what = f"groups with too few calibration rows: {listed}{more}"
        else:
            what = f"too few calibration rows ({sizes[0]})"
        warnings.warn(
            f"{what}; coverage {1 - float(alpha):g} needs at least {needed}. Their answers are "
            "everything: the full label set, or the whole line. Calibrate on more rows or raise "
            "alpha.",
            CoverageWarning,
            stacklevel=stacklevel,
        )


def check_condition(condition: Any, *names: str) -> None:
    """Refuse what is no way to tell groups.

    Raises
    ------
    ValueError
        If it is neither None, one of the names, a column, nor callable.
    """
    is_column = isinstance(condition, (str, int)) and not isinstance(condition, bool)
    if condition is not None and not is_column and not callable(condition):
        others = "".join(f"{name!r}, " for name in names)
        raise ValueError(
            f"condition must be None, {others}a column's name or number, or a callable "
            f"X -> groups, got {condition!r}"
        )


def group_rows(condition: Condition, X: Any, n: int) -> np.ndarray:
    """Return the groups (n,) that the user's condition gives the rows of X.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If the condition does not give one label a row, or gives NaN.
    """
    found = condition(X) if callable(condition) else column_of(X, condition)
    groups = np.asarray(to_numpy(found))
    if groups.shape != (n,):
        raise ValueError(
            f"condition(X) must return one group a row, shape ({n},), got {groups.shape}"
        )
    if groups.dtype == object:
        groups = groups.astype(str)
    if groups.dtype.kind == "f" and np.isnan(groups).any():
        raise ValueError("condition(X) returned NaN; give missing values a group of their own")
    return groups
