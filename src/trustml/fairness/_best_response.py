"""Best responses of a learner to a Lagrangian: the same rows, other weights and labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_array, has_fit_parameter

from trustml.fairness._moments import Moments
from trustml.model import Model

_SPARSE = 0.25  # share of non-zeros below which products with a sparse matrix are faster


class Learner:
    """A scikit-learn classifier that is fitted many times to the same rows.

    The steps of a pipeline before its last are fitted once, to the true labels. A logistic
    regression starts each fit at the coefficients whose costs were most alike, and sees rows that
    are mostly zeros as a sparse matrix.

    Parameters
    ----------
    estimator : classifier
        Its ``fit`` takes ``sample_weight``; not touched.
    X : array or frame of shape (n, d)
        Rows.
    moments : Moments
        Of the rows.
    labels : list
        The user's two labels, the favourable one last: keys of ``class_weight``.

    Raises
    ------
    TypeError
        If it is no classifier.
    ValueError
        If the classifier takes no weights.
    """

    def __init__(self, estimator: Any, X: Any, moments: Moments, labels: list[Any]) -> None:
        check_kind(estimator, "classifier")
        self.before, final = None, estimator
        if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
            self.before, final = clone(estimator[:-1]), estimator[-1]
            X = self.before.fit_transform(X, moments.atom % 2)
        if not has_fit_parameter(final, "sample_weight"):
            raise ValueError(
                f"each step fits {type(final).__name__} to weighted rows, but its fit takes no "
                "sample_weight; use an estimator whose fit does"
            )
        self.estimator = _coded(clone(final), labels)
        # Other solvers start anew, or their path is part of the answer.
        self.warm = type(final) is LogisticRegression and final.solver in {"lbfgs", "newton-cg"}
        self.moments = moments
        self.fit_rows = self._as_taken(X)
        if self.warm:
            if _mostly_zeros(self.fit_rows):
                self.fit_rows = sparse.csr_array(self.fit_rows)
            self.estimator.set_params(warm_start=True)
        self._starts: list[tuple[np.ndarray, Any]] = []

    def respond(self, multipliers: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the hypothesis that is fitted to a Lagrangian, and its atom rates (a,)."""
        moments = self.moments
        costs = moments.costs(multipliers)
        labels = (costs < 0).astype(int)[moments.atom]
        weight = np.abs(costs)[moments.atom] * moments.weight
        active = labels[weight > 0]
        if len(active) == 0 or (active == active[0]).all():
            constant = Constant(int(active[0]) if len(active) else 0)
            return constant, np.full(len(costs), float(constant.label))
        weight *= moments.weight.sum() / weight.sum()
        fitted = self._fitted(costs, labels, weight)
        return fitted, moments.atom_rates(fitted.predict(self.fit_rows) == 1)

    def decisions(self, hypotheses: list[Any], X: Any = None) -> np.ndarray:
        """Return decisions about rows, of None those of the fit: 0 or 1, shape (n, t)."""
        rows = self._prepared(X)
        return np.stack([h.predict(rows) == 1 for h in hypotheses], axis=1).astype(np.float64)

    def probability(self, hypothesis: Any, X: Any = None) -> np.ndarray:
        """Return the hypothesis's own probability of the favourable label, shape (n,)."""
        if not hasattr(hypothesis, "predict_proba"):
            return self.decisions([hypothesis], X)[:, 0]
        return np.asarray(hypothesis.predict_proba(self._prepared(X)))[:, 1]

    def forget(self) -> None:
        """Let go of the rows of the fit."""
        del self.fit_rows, self.moments
        self._starts.clear()

    def _prepared(self, X: Any) -> Any:
        if X is None:
            return self.fit_rows
        return self._as_taken(X if self.before is None else self.before.transform(X))

    def _as_taken(self, X: Any) -> Any:
        if not self.warm:
            return X
        return check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32])

    def _fitted(self, costs: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> Any:
        if not self.warm:
            return clone(self.estimator).fit(self.fit_rows, labels, sample_weight=weight)
        if self._starts:
            _, nearest = min(
                self._starts, key=lambda start: self.moments.share @ (start[0] - costs) ** 2
            )
            self.estimator.coef_ = nearest.coef_.copy()
            self.estimator.intercept_ = nearest.intercept_.copy()
        fitted = copy.copy(self.estimator.fit(self.fit_rows, labels, sample_weight=weight))
        self._starts.append((costs, fitted))
        return fitted


def check_kind(estimator: Any, kind: str) -> None:
    """Refuse what is no "classifier", or no "regressor", that can be trained."""
    if isinstance(estimator, Model):
        raise TypeError(
            f"each step trains the {kind} anew, but a fitted Model was given; pass the "
            "scikit-learn estimator itself"
        )
    if not all(hasattr(estimator, name) for name in ("fit", "predict", "get_params")):
        raise TypeError(f"estimator must be a scikit-learn {kind}, got {estimator!r}")
    tagged = hasattr(estimator, "__sklearn_tags__")
    if tagged and (is_regressor if kind == "classifier" else is_classifier)(estimator):
        raise TypeError(f"estimator must be a {kind}, but {type(estimator).__name__} is not one")


def _coded(estimator: Any, labels: list[Any]) -> Any:
    """Name the classes of the estimator's ``class_weight`` 0 and 1, as its labels are here."""
    weights = getattr(estimator, "class_weight", None)
    if not isinstance(weights, Mapping):
        return estimator
    unknown = [key for key in weights if key not in labels]
    if unknown:
        raise ValueError(f"class_weight names {unknown}, which are not among the labels {labels}")
    coded = {labels.index(key): weight for key, weight in weights.items()}
    return estimator.set_params(class_weight=coded)


def _mostly_zeros(rows: Any) -> bool:
    return isinstance(rows, np.ndarray) and bool(np.count_nonzero(rows) < _SPARSE * rows.size)


class Constant:
    """The hypothesis that decides alike about all rows."""

    def __init__(self, label: int) -> None:
        self.label = label

    def predict(self, X: Any) -> np.ndarray:
        """Return the label for each row."""
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        return np.full(n, self.label)
