"""Probabilities that are calibrated in every group and every intersection of groups."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np

from trustml.core.validation import check_positive_int
from trustml.fairness._groups import Groups
from trustml.fairness._post_processor import PostProcessor
from trustml.warnings import ConvergenceWarning


class Multicalibration(PostProcessor):
    r"""Shift probabilities until each group's are right on average at each level of probability.

    A cell is a group (all rows, each value of each sensitive column, each intersection) within a
    bin of the current probability. While a cell of at least ``min_share`` of the rows has a mean
    of label less probability beyond ``alpha``, the bins of its group are shifted by their means,
    and results are clipped to [0, 1]. Each pass lowers the squared error, by the sum over shifted
    cells of share times squared bias at least: it ends after few passes, and on the rows of ``fit``
    no such cell is left.

    Parameters
    ----------
    estimator : classifier, Model or torch module
        Gives probabilities. A clone of a scikit-learn estimator is fitted; a ``Model`` or module
        is asked as it is.
    alpha : float in (0, 1)
        Allowed bias of a cell, as a probability.
    min_share : float in (0, 1)
        Smaller cells are left alone: γ of the paper.
    n_bins : int
        Equally wide bins of probability.
    depth : int or None
        Most sensitive columns that are intersected; None is all of them.
    max_iter : int
        Most passes over a group.
    prefit : bool
        Whether a scikit-learn estimator is fitted already.
    folds : int or None
        Not None: shifts are learnt on out-of-fold probabilities, for learners that know their
        training rows by heart.
    pos_label : object or None
        The label whose probability is meant; None is the second of the sorted two.

    Attributes
    ----------
    n_iter_ : int
        Passes that shifted something.
    squared_errors_ : list of float
        Mean squared error over the rows of ``fit``, before and after each pass; it falls.

    References
    ----------
    Hébert-Johnson et al. (2018), Multicalibration: calibration for the (computationally
    identifiable) masses, arXiv:1711.08513.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s, X = rng.choice(["a", "b"], 2000), rng.normal(size=(2000, 1))
    >>> y = (rng.random(2000) < np.where(s == "a", 0.3, 0.6)).astype(int)
    >>> fair = Multicalibration(LogisticRegression()).fit(X, y, sensitive_features=s)
    >>> p = fair.predict_proba(X, sensitive_features=s)[:, 1]
    >>> [bool(abs(p[s == g].mean() - y[s == g].mean()) < 0.02) for g in "ab"]
    [True, True]
    """

    _corrects_scores = True

    def __init__(
        self,
        estimator: Any,
        *,
        alpha: float = 0.02,
        min_share: float = 0.01,
        n_bins: int = 10,
        depth: int | None = None,
        max_iter: int = 1000,
        prefit: bool = False,
        folds: int | None = None,
        pos_label: Any = None,
    ) -> None:
        self.estimator = estimator
        self.alpha = alpha
        self.min_share = min_share
        self.n_bins = n_bins
        self.depth = depth
        self.max_iter = max_iter
        self.prefit = prefit
        self.folds = folds
        self.pos_label = pos_label

    def _learn(
        self, X: Any, scores: np.ndarray, y: np.ndarray, codes: np.ndarray, weights: np.ndarray
    ) -> None:
        for name in ("alpha", "min_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")
        for name in ("n_bins", "max_iter"):
            check_positive_int(getattr(self, name), name)
        if self.depth is not None:
            check_positive_int(self.depth, "depth")
        w = weights / weights.sum()
        p = scores.copy()
        members = [
            (mask, np.flatnonzero(mask[codes])) for mask in _family(self._groups, self.depth)
        ]
        self._passes: list[tuple[np.ndarray, np.ndarray]] = []
        self.squared_errors_ = [float(w @ (p - y) ** 2)]
        settled = 0  # groups in a row that needed nothing
        for mask, rows in itertools.cycle(members):
            shift = self._shift(p[rows], y[rows], w[rows])
            settled = 0 if shift.any() else settled + 1
            if settled == len(members):
                break
            if not shift.any():
                continue
            if len(self._passes) == self.max_iter:
                self._warn_unfinished()
                break
            p[rows] = self._shifted(p[rows], shift)
            self._passes.append((mask, shift))
            self.squared_errors_.append(float(w @ (p - y) ** 2))
        self.n_iter_ = len(self._passes)

    def _shift(self, p: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Mean of label less probability of the bins that are large and biased, else 0."""
        place = self._bin(p)
        share = np.bincount(place, w, self.n_bins)
        total = np.bincount(place, w * (y - p), self.n_bins)
        bias = np.divide(total, share, out=np.zeros(self.n_bins), where=share >= self.min_share)
        return np.where(np.abs(bias) > self.alpha, bias, 0.0)

    def _shifted(self, p: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(p + shift[self._bin(p)], 0.0, 1.0))

    def _bin(self, p: np.ndarray) -> np.ndarray:
        return np.minimum((p * self.n_bins).astype(np.int64), self.n_bins - 1)

    def _decided(self, X: Any, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        p = scores.copy()
        for mask, shift in self._passes:
            rows = mask[codes]
            p[rows] = self._shifted(p[rows], shift)
        return p

    def _warn_unfinished(self) -> None:
        warnings.warn(
            f"after {self.max_iter} passes some cell is still biased by more than {self.alpha}; "
            "raise max_iter, alpha or min_share",
            ConvergenceWarning,
            stacklevel=5,
        )


def _family(groups: Groups, depth: int | None) -> list[np.ndarray]:
    """Masks over ``groups.labels``: everyone, then groups by one column, two, and so on."""
    k = len(groups.names)
    values = [label if k > 1 else (label,) for label in groups.labels]
    masks = [np.ones(len(values), dtype=bool)]
    for size in range(1, 1 + (k if depth is None else min(depth, k))):
        for columns in itertools.combinations(range(k), size):
            keys = [tuple(value[j] for j in columns) for value in values]
            masks += [np.array([key == one for key in keys]) for one in dict.fromkeys(keys)]
    return masks
