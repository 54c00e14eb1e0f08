"""Density ratios of new rows to calibration rows, by a probabilistic classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trustml.conformal._scored import rows_of
from trustml.conformal._weights import Weights
from trustml.core.random import row_uniforms
from trustml.core.validation import check_finite, check_positive_int
from trustml.model import Model

_LEAST = 1e-12  # probability of being a calibration row: bounds the ratio
_STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)  # scikit-learn's C, strictest first
_PARTS, _ENOUGH = 3, 5000  # parts, and about how many rows, that the strength is chosen on


class CovariateShift(Weights):
    """Weights for new rows of another law of X, but the same law of y given X.

    A probabilistic classifier tells rows of the target from source rows; its odds are the density
    ratio. Without ``X_source`` the calibration rows are the source, and each is weighed by
    classifiers that have not seen it.

    Parameters
    ----------
    X_target : array of shape (t, ...)
        Unlabelled rows of the law that new rows follow.
    X_source : array of shape (s, ...) or None
        Rows drawn as the calibration rows are, but none of them: such as training rows. The
        ratio then is a fixed function, which the proof asks for.
    classifier : scikit-learn classifier with predict_proba, or None
        None: logistic regression on standardised inputs, whose log ratio is linear; its penalty
        has the least held-out log loss, so that ratios stay near 1 where nothing tells the rows
        apart.
    folds : int
        Cross-fitting folds, without ``X_source``; at least 2.

    Attributes
    ----------
    ratios_ : list of callables (n, d) -> (n,)
        Estimated density ratios: one, or one a fold.
    calibration_ : ndarray of shape (n,)
        Weights of the calibration rows.

    References
    ----------
    Tibshirani, Barber, Candès and Ramdas (2019), section 2.3, arXiv:1904.06019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.conformal import WeightedRegressor
    >>> X = np.random.default_rng(0).normal(size=(400, 1))
    >>> y = np.sin(X[:, 0])
    >>> cp = WeightedRegressor(Ridge().fit(X[:100], y[:100]), CovariateShift(X[200:] + 1))
    >>> cp.fit(X[100:200], y[100:200]).effective_sample_size_ < 60
    True
    """

    def __init__(
        self, X_target: Any, X_source: Any = None, classifier: Any = None, folds: int = 5
    ) -> None:
        self.X_target = X_target
        self.X_source = X_source
        self.classifier = classifier
        self.folds = folds

    def fit(self, model: Model, X: Any, y: np.ndarray) -> Self:
        """Fit the classifiers and weigh the calibration rows.

        Returns
        -------
        CovariateShift

        Raises
        ------
        TypeError
            If the classifier gives no probabilities.
        ValueError
            If target or source rows are not like the calibration rows, or too few to split.
        """
        if self.classifier is not None and not hasattr(self.classifier, "predict_proba"):
            raise TypeError(f"classifier must have predict_proba, got {self.classifier!r}")
        rows = flat_rows(X, "X_cal")
        target = flat_rows(self.X_target, "X_target", rows.shape[1])
        if self.X_source is not None:
            source = flat_rows(self.X_source, "X_source", rows.shape[1])
            self.ratios_ = [self._tell_apart(source, target)]
            self.calibration_ = self.ratios_[0](rows)
            return self
        if check_positive_int(self.folds, "folds") < 2:
            raise ValueError("folds must be at least 2, got 1; or pass X_source")
        # By a hash of the row: the same whatever the order, and copies of a row share a fold.
        fold = (row_uniforms(rows, 0) * self.folds).astype(int)
        if len(np.unique(fold)) < 2:
            raise ValueError(
                f"{len(rows)} calibration rows do not fill 2 folds; give more rows, or X_source"
            )
        held = (row_uniforms(target, 0) * self.folds).astype(int)
        self.calibration_ = np.empty(len(rows))
        self.ratios_ = []
        for k in np.unique(fold):
            # Target rows that equal held-out rows leave with them.
            kept = target[held != k]
            if len(kept) == 0:
                raise ValueError(
                    f"X_target has {len(target)} rows, too few for {self.folds} folds; give more "
                    "rows, or X_source"
                )
            self.ratios_.append(self._tell_apart(rows[fold != k], kept))
            self.calibration_[fold == k] = self.ratios_[-1](rows[fold == k])
        return self

    def own(self, X: Any) -> np.ndarray:
        """Return the density ratios of new rows, (m, 1): the folds' geometric mean."""
        rows = flat_rows(X, "X")
        ratio: np.ndarray = np.exp(np.mean([np.log(ratio(rows)) for ratio in self.ratios_], axis=0))
        return ratio[:, None]

    def _tell_apart(self, source: np.ndarray, target: np.ndarray) -> _Ratio:
        rows = np.concatenate([source, target])
        is_target = np.repeat([False, True], [len(source), len(target)])
        if self.classifier is None:
            fitted = _logistic(_strength(rows, is_target)).fit(rows, is_target)
        else:
            fitted = clone(self.classifier).fit(rows, is_target)
        return _Ratio(fitted, len(source) / len(target))


def _logistic(strength: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def _strength(rows: np.ndarray, is_target: np.ndarray) -> float:
    """Return the strength with the least held-out log loss; the strictest of equal ones."""
    # As for the folds: by the rows themselves, whatever their order.
    part = (row_uniforms(rows, 1) * _PARTS * max(1.0, len(rows) / _ENOUGH)).astype(int)
    losses = np.zeros(len(_STRENGTHS))
    for k in range(_PARTS):
        kept, held = (part != k) & (part < _PARTS), part == k
        if not held.any() or len(np.unique(is_target[kept])) < 2:
            continue
        for i, strength in enumerate(_STRENGTHS):
            p = _logistic(strength).fit(rows[kept], is_target[kept]).predict_proba(rows[held])
            of_truth = p[np.arange(len(p)), is_target[held].astype(int)]
            losses[i] -= np.log(np.maximum(of_truth, _LEAST)).sum()
    return _STRENGTHS[int(losses.argmin())]


@dataclass(frozen=True, eq=False)
class _Ratio:
    """The odds of a classifier, times what its class sizes put in."""

    classifier: Any
    factor: float

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        p = self.classifier.predict_proba(rows)[:, 1]
        odds: np.ndarray = np.maximum(p, _LEAST) / np.maximum(1 - p, _LEAST)
        return odds * self.factor


def flat_rows(X: Any, name: str, width: int | None = None) -> np.ndarray:
    """Return rows of finite numbers, (n, d) in float64.

    Returns
    -------
    ndarray of shape (n, d)

    Raises
    ------
    ValueError
        If they are no finite numbers, none at all, or not of this width.
    """
    rows = np.asarray(rows_of(X))
    if rows.dtype.kind not in "biuf" or len(rows) == 0:
        raise ValueError(
            f"{name} must be rows of numbers, got dtype {rows.dtype}, {len(rows)} rows"
        )
    check_finite(rows, name)
    rows = rows.astype(np.float64).reshape(len(rows), -1)
    if width not in {None, rows.shape[1]}:
        raise ValueError(
            f"{name} has {rows.shape[1]} columns, the calibration rows have {width}; give rows of "
            "one kind"
        )
    return rows
