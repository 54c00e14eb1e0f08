"""Conformal prediction with coverage in every one of several groups, which may overlap."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

from trustml.conformal._conditional_limits import conditional_limits
from trustml.conformal._residual_score import ResidualScore
from trustml.conformal._rowwise import RowwiseClassifier, RowwiseRegressor
from trustml.conformal._score import ScoreFunction
from trustml.core.random import RandomState
from trustml.core.validation import check_finite, to_numpy
from trustml.model import Model
from trustml.warnings import CoverageWarning


class GroupConditionalClassifier(RowwiseClassifier):
    """Sets that hold the true label with probability at least 1 - alpha in each group of rows.

    Groups may overlap, as those by sex and by age do, and new rows are answered by all that they
    belong to. Disjoint groups are served faster by ``SplitClassifier(condition=...)``.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier.
    groups : callable X -> (n,) or (n, g), or None
        Membership in g groups, as booleans; all rows together are always one more. Real numbers
        of at least 0 ask for coverage under each tilt of the rows by these numbers. None: all
        rows alone, as `SplitClassifier` does.
    score : {"lac", "aps", "raps", "saps", "topk", "margin", "entmax", "knn"}, Score or callable
        Strangeness of a class.
    random_state : int, Generator or None
        Seed of randomised scores.

    Attributes
    ----------
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    n_calibration_ : int
        Number of calibration rows.

    Notes
    -----
    A linear program is solved for every combination of groups among the new rows (for every row,
    where the numbers differ) and every alpha. A set of a smaller alpha need not contain that of a
    larger one: quantile regressions may cross.

    References
    ----------
    Gibbs, Cherian and Candès (2023), Conformal prediction with conditional guarantees,
    arXiv:2305.12616.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> p = np.random.default_rng(0).dirichlet([1, 1, 1], size=100)
    >>> groups = lambda p: p[:, :2] > 0.3
    >>> cp = GroupConditionalClassifier(trustml.precomputed("probabilities"), groups)
    >>> cp.fit(p, p.argmax(1)).predict_set(p[:2], alpha=0.1).shape
    (2, 3)
    """

    def __init__(
        self,
        model: Any,
        groups: Callable[[Any], Any] | None = None,
        score: str | ScoreFunction = "lac",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.groups = groups
        self.score = score
        self.random_state = random_state

    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        self._scored = GroupedScores.of(self.groups, X, scores)

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        return self._scored.limits(X, n, alphas)


class GroupConditionalRegressor(RowwiseRegressor):
    """Intervals that hold the true value with probability at least 1 - alpha in each group of rows.

    Groups may overlap, and new rows are answered by all that they belong to. Disjoint groups are
    served faster by ``SplitRegressor(condition=...)``.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output.
    groups : callable X -> (n,) or (n, g), or None
        Membership in g groups, as booleans; all rows together are always one more. Real numbers
        of at least 0 ask for coverage under each tilt of the rows by these numbers. None: all
        rows alone, as `SplitRegressor` does.
    score : {"absolute", "normalized"} or ResidualScore
        What is calibrated.

    Attributes
    ----------
    n_calibration_ : int
        Number of calibration rows.

    Notes
    -----
    As for `GroupConditionalClassifier`: a linear program for every combination of groups, and
    intervals of different alpha need not be nested.

    References
    ----------
    Gibbs, Cherian and Candès (2023), Conformal prediction with conditional guarantees,
    arXiv:2305.12616.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> y = X.sum(1) + rng.normal(size=300) * np.where(X[:, 0] > 0, 2, 1)
    >>> cp = GroupConditionalRegressor(Ridge().fit(X[:100], y[:100]), lambda X: X > 0)
    >>> new = np.array([[1, 1], [-1, -1]])
    >>> widths = np.diff(cp.fit(X[100:], y[100:]).predict_interval(new, alpha=0.1))
    >>> bool(widths[0] > widths[1])
    True
    """

    def __init__(
        self,
        model: Any,
        groups: Callable[[Any], Any] | None = None,
        score: str | ResidualScore = "absolute",
    ) -> None:
        self.model = model
        self.groups = groups
        self.score = score

    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        self._scored = GroupedScores.of(self.groups, X, scores)

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        return self._scored.limits(X, n, alphas)


@dataclass(frozen=True, eq=False)
class GroupedScores:
    """Calibration scores (n,) beside the groups (n, g) of their rows."""

    groups: Callable[[Any], Any] | None
    features: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, groups: Any, X: Any, scores: np.ndarray) -> Self:
        """Return the scores with the groups that the user's function gives.

        Returns
        -------
        GroupedScores

        Raises
        ------
        TypeError
            If ``groups`` is neither None nor callable.
        """
        if not (groups is None or callable(groups)):
            raise TypeError(f"groups must be None or a callable X -> (n, g), got {groups!r}")
        check_finite(scores, "the calibration scores")
        return cls(groups, memberships(groups, X, len(scores)), scores)

    def limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        """Return thresholds (n, 1, a), with one warning where calibration rows do not suffice.

        Returns
        -------
        ndarray of shape (n, 1, a)

        Raises
        ------
        ValueError
            If ``groups`` gives another number of groups than for the calibration rows.
        """
        rows, expected = memberships(self.groups, X, n), self.features.shape[1]
        if rows.shape[1] != expected:
            raise ValueError(
                f"groups(X) gave {expected - 1} groups for the calibration rows and "
                f"{rows.shape[1] - 1} now"
            )
        limits = conditional_limits(self.scores, self.features, rows, alphas)
        endless = np.isinf(limits).any(axis=1)
        if endless.any():
            warnings.warn(
                f"{endless.sum()} of {n} rows are in groups with too few of the "
                f"{len(self.scores)} calibration rows for alpha={float(min(alphas)):g}: their "
                "answers are everything, the full label set or the whole line. Calibrate on more "
                "rows of these groups or raise alpha.",
                CoverageWarning,
                stacklevel=4,
            )
        return limits[:, None]


def memberships(groups: Callable[[Any], Any] | None, X: Any, n: int) -> np.ndarray:
    """Return (n, 1 + g) features: ones, and what the user's function gives.

    Returns
    -------
    ndarray of shape (n, 1 + g)

    Raises
    ------
    ValueError
        If these are no finite numbers of at least 0, a row each.
    """
    ones = np.ones((n, 1))
    if groups is None:
        return ones
    found = np.asarray(to_numpy(groups(X)))
    if found.ndim not in {1, 2} or len(found) != n:
        raise ValueError(
            f"groups(X) must have shape ({n},) or ({n}, g), a column a group, got {found.shape}"
        )
    if found.dtype.kind not in "biuf":
        raise ValueError(
            f"groups(X) must be booleans or numbers, got dtype {found.dtype}; for labels give one "
            "column a label, labels[:, None] == names"
        )
    check_finite(found, "groups(X)")
    if (found < 0).any():
        raise ValueError(f"groups(X) must not be negative, got {found.min():g}")
    return np.concatenate([ones, found.reshape(n, -1).astype(np.float64)], axis=1)
