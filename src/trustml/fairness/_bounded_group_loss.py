"""Regression whose loss is bounded within every group."""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import numpy as np
from scipy.optimize import linprog
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    has_fit_parameter,
    validate_data,
)

from trustml.core.alignment import check_aligned
from trustml.core.progress import track
from trustml.core.validation import check_choice, check_positive_int
from trustml.fairness._best_response import check_kind
from trustml.fairness._groups import as_groups
from trustml.fairness._rates import check_weights
from trustml.warnings import ConvergenceWarning, TrustmlWarning

_LOSSES = {
    "squared_error": lambda f, y: (f - y) ** 2,
    "absolute_error": lambda f, y: np.abs(f - y),
}
_VIOLATION = 1e3  # mean losses that a unit of loss beyond the bound costs


class BoundedGroupLoss(RegressorMixin, MetaEstimatorMixin, BaseEstimator):
    """The smallest mean loss with a bound on that of every group, or the smallest worst one.

    A linear programme over the regressors found so far gives their mixture and the price of each
    group's loss; a fit with the rows reweighted by the prices gives the next regressor. Losses are
    convex, so the mean prediction of the mixture keeps every bound that the mixture keeps.

    Parameters
    ----------
    estimator : regressor
        Its ``fit`` takes ``sample_weight``, and minimises about the same loss.
    upper_bound : float or None
        The largest mean loss of a group that is allowed on the training rows, in the unit of the
        loss; None makes the largest one as small as possible.
    loss : str
        ``"squared_error"`` or ``"absolute_error"``.
    max_iter : int
        Largest number of fits.
    nu : float
        Relative duality gap at which to stop.

    Attributes
    ----------
    predictors_ : list
        The regressors that are averaged.
    weights_ : numpy.ndarray of shape (t,)
        Their weights.
    group_losses_ : dict
        Group -> mean loss on the training rows.
    best_gap_ : float
        How far the mixture's objective may be from the best that the regressors can reach, in
        the unit of the loss.
    n_iter_ : int
        Fits that were made.

    References
    ----------
    Agarwal, Dudik and Wu (2019), Fair regression: quantitative definitions and reduction-based
    algorithms, arXiv:1905.12843, section 4.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> rng = np.random.default_rng(0)
    >>> s = (rng.random(400) < 0.1).astype(int)
    >>> X = rng.normal(size=(400, 1))
    >>> y = np.where(s, -1, 1) * X[:, 0] + 0.1 * rng.normal(size=400)
    >>> fair = BoundedGroupLoss(LinearRegression()).fit(X, y, sensitive_features=s)
    >>> plain = LinearRegression().fit(X, y)
    >>> bool(max(fair.group_losses_.values()) < np.mean((plain.predict(X) - y)[s == 1] ** 2) / 2)
    True
    """

    def __init__(
        self,
        estimator: Any,
        upper_bound: float | None = None,
        *,
        loss: str = "squared_error",
        max_iter: int = 50,
        nu: float = 1e-3,
    ) -> None:
        self.estimator = estimator
        self.upper_bound = upper_bound
        self.loss = loss
        self.max_iter = max_iter
        self.nu = nu

    def fit(self, X: Any, y: Any, *, sensitive_features: Any, sample_weight: Any = None) -> Self:
        """Fit until no regressor improves the mixture.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows, as the estimator takes them.
        y : array-like of shape (n,)
            Targets.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.
        sample_weight : array-like of shape (n,) or None
            How often each row counts.

        Returns
        -------
        BoundedGroupLoss
            Itself.

        Raises
        ------
        ValueError
            If a parameter makes no sense, or the regressor takes no weights.

        Warns
        -----
        TrustmlWarning
            If the bound cannot be kept.
        ConvergenceWarning
            If ``max_iter`` fits are too few.
        """
        validate_data(self, X, y, skip_check_array=True)
        target = column_or_1d(y, warn=True)
        check_consistent_length(X, target)
        if len(target) < 2:
            raise ValueError("one sample is not enough to compare groups: n_samples = 1")
        check_choice(self.loss, "loss", _LOSSES)
        check_positive_int(self.max_iter, "max_iter")
        bound = self.upper_bound
        if bound is not None and not bound > 0:
            raise ValueError(f"upper_bound must be a positive loss or None, got {bound}")
        if not 0 <= self.nu < math.inf:
            raise ValueError(f"nu must be a relative gap, at least 0, got {self.nu}")
        check_kind(self.estimator, "regressor")
        if not has_fit_parameter(self.estimator, "sample_weight"):
            raise ValueError(
                f"each step fits {type(self.estimator).__name__} to weighted rows, but its fit "
                "takes no sample_weight; use an estimator whose fit does"
            )
        check_aligned(X=X, y=y, sensitive_features=sensitive_features, sample_weight=sample_weight)
        weight = check_weights(sample_weight, len(target))
        weight = np.ones(len(target)) if weight is None else weight
        if not weight.any():
            raise ValueError("every sample_weight is zero; nothing is left to learn from")
        groups = as_groups(sensitive_features, len(target))
        member = np.eye(len(groups.labels))[groups.codes] * weight[:, None]
        share = member.sum(0) / weight.sum()
        if not share.all():
            empty = [groups.labels[g] for g in np.flatnonzero(share == 0)]
            raise ValueError(f"every sample_weight is zero in the groups {empty}; leave them out")
        prices = share.copy() if bound is not None else np.ones(len(share)) / len(share)
        found: list[Any] = []
        losses: list[np.ndarray] = []
        best, value, mixture = -math.inf, math.inf, np.ones(1)
        for call in track(range(self.max_iter), "bounding group losses"):
            # The mean loss is a price too: each group's share.
            charge = prices if bound is None or call == 0 else prices + share
            fitted = clone(self.estimator).fit(
                X, target, sample_weight=self._scaled(charge / share, groups.codes, weight)
            )
            found.append(fitted)
            of_rows = _LOSSES[self.loss](fitted.predict(X), target)
            losses.append(of_rows @ member / member.sum(0))
            table = np.stack(losses, axis=1)
            paid = 0.0 if call == 0 or bound is None else float(prices.sum()) * bound
            best = max(best, float((charge @ table).min()) - paid)
            value, mixture, prices = _programme(table, share, bound)
            if value - best <= self.nu * abs(value):
                break
        self.n_iter_, self.best_gap_ = call + 1, max(value - best, 0.0)
        kept = np.flatnonzero(mixture)
        self.predictors_, self.weights_ = [found[t] for t in kept], mixture[kept]
        final = _LOSSES[self.loss](self.predict(X), target) @ member / member.sum(0)
        self.group_losses_ = dict(zip(groups.labels, final.tolist(), strict=True))
        self._warn(bound, value)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the weighted mean of the regressors' predictions.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.

        Returns
        -------
        numpy.ndarray of shape (n,)
            In the unit of the targets.

        Raises
        ------
        ValueError
            If the rows do not have the columns of ``fit``.
        """
        check_is_fitted(self)
        if getattr(X, "ndim", 2) == 1:
            raise ValueError("X must have two dimensions, got one. Reshape your data")
        validate_data(self, X, reset=False, skip_check_array=True)
        total: np.ndarray = sum(
            w * np.asarray(p.predict(X))
            for w, p in zip(self.weights_, self.predictors_, strict=True)
        )
        return total

    @staticmethod
    def _scaled(charge: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        scaled = charge[codes] * weight
        return np.asarray(scaled * (weight.sum() / scaled.sum()))

    def _warn(self, bound: float | None, value: float) -> None:
        if bound is not None and max(self.group_losses_.values()) > bound * (1 + 1e-6):
            warnings.warn(
                f"no mixture that was found keeps every group's loss below {bound:.4g}; the "
                f"largest is {max(self.group_losses_.values()):.4g}: raise upper_bound, or use a "
                "richer estimator",
                TrustmlWarning,
                stacklevel=3,
            )
        elif self.best_gap_ > self.nu * abs(value):
            warnings.warn(
                f"after {self.max_iter} fits the objective may be {self.best_gap_:.2g} above the "
                "smallest reachable; raise max_iter or nu",
                ConvergenceWarning,
                stacklevel=3,
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if hasattr(self.estimator, "__sklearn_tags__"):
            tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def _programme(
    table: np.ndarray, share: np.ndarray, bound: float | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return value, mixture, and prices of the groups' losses."""
    k, t = table.shape
    mean = np.zeros(t) if bound is None else share @ table
    beyond = 1.0 if bound is None else _VIOLATION
    programme = linprog(
        np.r_[mean, beyond],
        A_ub=np.c_[table, -np.ones(k)],
        b_ub=np.full(k, 0.0 if bound is None else bound),
        A_eq=np.r_[np.ones(t), 0.0][None],
        b_eq=[1.0],
        method="highs",
    )
    if not programme.success:
        raise RuntimeError(f"the linear programme over regressors failed: {programme.message}")
    mixture = np.where(programme.x[:t] < 1e-9, 0.0, programme.x[:t])
    prices = -programme.ineqlin.marginals
    return float(programme.fun), mixture / mixture.sum(), prices
