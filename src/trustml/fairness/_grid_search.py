"""Fair classification by a grid of multipliers: one deterministic classifier."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import qmc
from sklearn.base import MetaEstimatorMixin

from trustml.core.progress import track
from trustml.core.validation import check_positive_int
from trustml.fairness._best_response import Learner
from trustml.fairness._groups import Groups
from trustml.fairness._mitigator import FairClassifier
from trustml.fairness._moments import Moments, moments_of


class GridSearch(MetaEstimatorMixin, FairClassifier):
    """The best of classifiers fitted to rows that are reweighted and relabelled along a grid.

    Each point of the grid prices the groups' rates; the classifier that answers it with the
    smallest sum of error and gap, weighted by ``constraint_weight``, is kept. Its decisions have
    no chance in them, and it says how accuracy and gap trade off; ``ExponentiatedGradient`` finds
    better pairs of the two with fewer fits where there are several prices to choose.

    Parameters
    ----------
    estimator : classifier
        Its ``fit`` takes ``sample_weight``; the last step of a pipeline will do.
    constraints : str
        As of ``ExponentiatedGradient``.
    constraint_weight : float in [0, 1]
        Weight of the gap; the error has the rest.
    grid_size : int
        Number of fits.
    grid_limit : float
        Largest sum of the absolute prices, in units of error per unit of rate.
    pos_label : object or None
        The favourable label; None takes the second of the sorted labels.

    Attributes
    ----------
    predictors_ : list
        A classifier for each point; the first is the unmitigated one.
    multipliers_ : numpy.ndarray of shape (t, k)
        The grid.
    errors_, gaps_ : numpy.ndarray of shape (t,)
        On the training rows.
    best_idx_ : int
        Which one is kept.

    References
    ----------
    Agarwal, Beygelzimer, Dudik, Langford and Wallach (2018), A reductions approach to fair
    classification, arXiv:1803.02453, section 3.4.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s = rng.integers(0, 2, 2000)
    >>> X = np.c_[rng.normal(size=2000) + s, rng.normal(size=2000)]
    >>> y = (X.sum(1) + rng.logistic(size=2000) > 0.5).astype(int)
    >>> fair = GridSearch(LogisticRegression(), "demographic_parity", grid_size=20)
    >>> fair = fair.fit(X, y, sensitive_features=s)
    >>> bool(fair.gaps_[fair.best_idx_] < fair.gaps_[0] / 2)
    True
    """

    def __init__(
        self,
        estimator: Any,
        constraints: str = "equalized_odds",
        constraint_weight: float = 0.5,
        grid_size: int = 20,
        grid_limit: float = 2.0,
        *,
        pos_label: Any = None,
    ) -> None:
        self.estimator = estimator
        self.constraints = constraints
        self.constraint_weight = constraint_weight
        self.grid_size = grid_size
        self.grid_limit = grid_limit
        self.pos_label = pos_label

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        size = check_positive_int(self.grid_size, "grid_size")
        if not 0 <= self.constraint_weight <= 1:
            raise ValueError(f"constraint_weight must be in [0, 1], got {self.constraint_weight}")
        if not 0 < self.grid_limit < math.inf:
            raise ValueError(f"grid_limit must be positive and finite, got {self.grid_limit}")
        moments = moments_of(self.constraints, groups, y, sample_weight)
        labels = sorted(self.classes_.tolist(), key=self._favourable().__eq__)
        learner = Learner(self.estimator, X, moments, labels)
        self.multipliers_ = grid(moments, size, self.grid_limit)
        answers = [learner.respond(at) for at in track(self.multipliers_, "fitting on a grid")]
        self.predictors_ = [found for found, _ in answers]
        atoms = np.stack([rates for _, rates in answers], axis=1)
        self.errors_, self.gaps_ = moments.errors(atoms), moments.gap(atoms)
        w = self.constraint_weight
        self.best_idx_ = int(((1 - w) * self.errors_ + w * self.gaps_).argmin())
        decided = learner.decisions([self.predictors_[self.best_idx_], self.predictors_[0]])
        learner.forget()
        self._learner = learner
        return decided[:, 0], decided[:, 1]

    def predict(self, X: Any) -> np.ndarray:
        """Return the decision of the classifier that was kept, one of ``classes_`` a row.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.

        Returns
        -------
        numpy.ndarray of shape (n,)
        """
        self._check_rows(X)
        kept = self._learner.decisions([self.predictors_[self.best_idx_]], X)
        return self._labels(X, kept[:, 0])

    def _probability(self, X: Any) -> np.ndarray:
        return self._learner.probability(self.predictors_[self.best_idx_], X)


def grid(moments: Moments, size: int, limit: float) -> np.ndarray:
    """Return multipliers (size, k) that add up to 0 within each condition, the first all 0."""
    parts = []
    for c in np.unique(moments.condition):
        members = np.flatnonzero(moments.condition == c)
        contrast = np.zeros((len(members) - 1, len(moments.condition)))
        contrast[:, members[1:]] = np.eye(len(members) - 1)
        contrast[:, members[0]] = -1.0
        parts.append(contrast)
    basis = np.concatenate(parts)
    d = len(basis)
    if d == 1:
        ends = np.linspace(-1, 1, max(size - 1, 1))[:, None]
    else:
        cube = 2 * qmc.Halton(d, scramble=False).random(size) - 1
        # The cube's shells become those of the ball of the sum of absolute values.
        ends = cube[1:] * (np.abs(cube[1:]).max(1) / np.abs(cube[1:]).sum(1))[:, None]
    points = ends @ basis
    # A difference is priced in both its groups.
    points *= limit / max(2 * np.abs(ends).sum(1).max(initial=0.0), 1e-12)
    return np.concatenate([np.zeros((1, len(moments.condition))), points])[:size]
