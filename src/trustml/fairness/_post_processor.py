"""What classifiers that decide by group, from the scores of another, have in common."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples, check_is_fitted
from torch import nn

from trustml.core.alignment import check_aligned
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_finite, to_numpy
from trustml.fairness._groups import Groups
from trustml.fairness._known_groups import check_given, group_codes
from trustml.fairness._mitigator import FairClassifier
from trustml.model import Model, wrap
from trustml.warnings import TrustmlWarning

_SCORES = ("predict_proba", "decision_function")
_BY_HEART = 0.999  # area under the ROC curve


class PostProcessor(FairClassifier):
    """Base of the classifiers that leave a model as it is and correct what it says.

    A ``Model`` or a torch module is asked as it is; of a scikit-learn estimator a clone is fitted,
    unless it is said to be fitted. A subclass stores ``estimator``, ``prefit`` and ``folds``,
    learns in ``_learn`` and answers in ``_decided``.

    Attributes
    ----------
    estimator_ : estimator or Model
        What gives the scores.
    groups_ : list
        Those seen in ``fit``.
    """

    estimator: Any
    prefit: bool = False
    folds: int | None = None
    _needs_probabilities = True
    _corrects_scores = False  # the answer is a score, no decision

    @abstractmethod
    def _learn(
        self, X: Any, scores: np.ndarray, y: np.ndarray, codes: np.ndarray, weights: np.ndarray
    ) -> None:
        """Learn the correction from scores (n,), favourable labels (n,), groups and weights."""

    @abstractmethod
    def _decided(self, X: Any, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the corrected probability of the favourable label, shape (n,)."""

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self._groups, self.groups_ = groups, list(groups.labels)
        scores = self._training_scores(X, y, sample_weight)
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        self._learn(X, scores, y, groups.codes, weights)
        unmitigated = scores if self._corrects_scores else (scores > self._cut).astype(np.float64)
        return self._decided(X, scores, groups.codes), unmitigated

    def predict_proba(self, X: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Return the probabilities of ``classes_``.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Of these rows; groups of ``fit``.

        Returns
        -------
        numpy.ndarray of shape (n, 2)
            Where decisions are drawn, those of the draw.
        """
        check_given(self, "predict_proba", sensitive_features)
        return self._columns(self._answers(X, sensitive_features))

    def predict(self, X: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Return one of ``classes_`` for each row; equal rows of a group get equal decisions.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Of these rows; groups of ``fit``.

        Returns
        -------
        numpy.ndarray of shape (n,)
        """
        check_given(self, "predict", sensitive_features)
        return self._labels(X, self._answers(X, sensitive_features))

    def score(
        self, X: Any, y: Any, sample_weight: Any = None, *, sensitive_features: Any = None
    ) -> float:
        """Return the accuracy of ``predict``.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.
        y : array-like of shape (n,)
            Labels.
        sample_weight : array-like of shape (n,) or None
            Weights of the rows.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Of these rows; groups of ``fit``.

        Returns
        -------
        float
        """
        check_given(self, "score", sensitive_features)
        found = self.predict(X, sensitive_features=sensitive_features)
        return float(accuracy_score(y, found, sample_weight=sample_weight))

    def _answers(self, X: Any, sensitive_features: Any) -> np.ndarray:
        self._check_rows(X)
        check_aligned(X=X, sensitive_features=sensitive_features)
        codes = group_codes(sensitive_features, _num_samples(X), self._groups)
        return self._decided(X, self._scores(self.estimator_, X), codes)

    def _training_scores(self, X: Any, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        labels = self.classes_[(y == (self.classes_[1] == self._favourable())).astype(int)]
        if isinstance(self.estimator, Model):
            self.estimator_ = self.estimator
        elif isinstance(self.estimator, nn.Module):
            self.estimator_ = wrap(self.estimator, "classification", train=(X, labels))
        elif self.prefit:
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
        else:
            given = {} if weights is None else {weights_name(self.estimator): weights}
            self.estimator_ = clone(self.estimator).fit(X, labels, **given)
            if self.folds is not None:
                out = cross_val_predict(
                    clone(self.estimator),
                    X,
                    labels,
                    cv=self.folds,
                    method=self._method(),
                    params=given,
                )
                return self._favourable_scores(out)
        scores = self._scores(self.estimator_, X)
        self._warn_if_by_heart(scores, y, weights)
        known = getattr(self.estimator_, "classes_", None)
        if known is None or known.tolist() != self.classes_.tolist():
            raise ValueError(
                f"y has the labels {self.classes_.tolist()}, but the model that is corrected knows "
                f"{None if known is None else known.tolist()}; give y in the model's labels"
            )
        return scores

    def _warn_if_by_heart(
        self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None
    ) -> None:
        area = roc_auc_score(y, scores, sample_weight=weights)
        if area > _BY_HEART:
            own = not self.prefit and not isinstance(self.estimator, (Model, nn.Module))
            warnings.warn(
                f"the scores separate the labels of these rows almost perfectly (area under the "
                f"ROC curve {area:.4f}), as those of a model that knows its training rows by "
                "heart: then what is learnt from them does not hold on new rows; "
                + ("pass folds=5" if own else "fit on rows that the model was not trained on"),
                TrustmlWarning,
                stacklevel=5,
            )

    def _method(self) -> str:
        names = ("predict_proba",) if self._needs_probabilities else _SCORES
        for name in names:
            if hasattr(self.estimator_, name):
                return name
        raise TypeError(
            f"{type(self).__name__} needs an estimator with {' or '.join(names)}, which "
            f"{type(self.estimator_).__name__} does not have"
        )

    @property
    def _cut(self) -> float:
        """Score above which the model itself decides favourably."""
        return 0.5 if self._method() == "predict_proba" else 0.0

    def _scores(self, estimator: Any, X: Any) -> np.ndarray:
        return self._favourable_scores(getattr(estimator, self._method())(X))

    def _favourable_scores(self, outputs: Any) -> np.ndarray:
        found = to_numpy(outputs).astype(np.float64)
        check_finite(found, "the model's scores")
        second = self.classes_[1] == self._favourable()
        if found.ndim == 2:
            return found[:, 1 if second else 0]
        return found if second else -found

    def _drawn_seed(self, random_state: RandomState) -> int:
        """Return the seed of the rows' random numbers."""
        if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
            return int(random_state)
        return int(numpy_generator(random_state).integers(2**31))


def weights_name(estimator: Any) -> str:
    """Return what ``fit`` calls its sample weights; those of a pipeline go to its last step."""
    final, steps = estimator, []
    while isinstance(final, Pipeline):
        name, final = final.steps[-1]
        steps.append(f"{name}__")
    taken = inspect.signature(final.fit).parameters.values()
    if not any(p.name == "sample_weight" or p.kind == p.VAR_KEYWORD for p in taken):
        raise ValueError(
            f"sample_weight is given, but the fit of {type(final).__name__} takes none; use an "
            "estimator whose fit does, or leave the weights out"
        )
    # With metadata routing the steps say themselves what they want.
    routed = get_config()["enable_metadata_routing"]
    return "sample_weight" if routed else "".join([*steps, "sample_weight"])
