"""What classifiers that mitigate a disparity have in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from trustml.core.alignment import check_aligned
from trustml.core.random import row_uniforms
from trustml.core.validation import take_rows
from trustml.fairness._drawn_gap import warn_if_drawn_apart
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._known_groups import check_given
from trustml.fairness._rates import check_weights
from trustml.fairness._roc_curves import compared_rates
from trustml.warnings import TrustmlWarning

_WITHIN = {"true_positive_rate": True, "false_positive_rate": False}  # the label that counts


class FairClassifier(ClassifierMixin, BaseEstimator, ABC):
    """Base of the binary classifiers that are trained, or corrected, to treat groups alike.

    ``fit`` checks what it is given, encodes the labels, reads the groups, and warns when the
    outcome is no classifier to speak of. A subclass stores its parameters (``pos_label`` among
    them, if it can be chosen), learns in ``_fit`` and answers in ``_probability``. One whose
    decisions are drawn sets ``seed_``.

    Attributes
    ----------
    classes_ : numpy.ndarray of shape (2,)
        The two labels, sorted.
    n_features_in_ : int
        Columns of ``X``.
    """

    classes_: np.ndarray
    n_features_in_: int
    seed_: int | None = None

    def fit(
        self, X: Any, y: Any, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> Self:
        """Learn from labelled rows whose groups are known.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows, as the estimator inside takes them.
        y : array-like of shape (n,)
            Two labels of any kind.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.
        sample_weight : array-like of shape (n,) or None
            How often each row counts; a row of weight 0 is left out.

        Returns
        -------
        FairClassifier
            Itself.

        Raises
        ------
        ValueError
            If there are not two labels and two groups, or lengths differ.

        Warns
        -----
        SmallGroupWarning
            If a group has fewer than 20 rows.
        TrustmlWarning
            If all rows get one decision, or every row the decision of the unmitigated model; if
            decisions are drawn, and those of the rows leave a gap that is far beyond the expected.
        """
        check_given(self, "fit", sensitive_features)
        check_aligned(X=X, y=y, sensitive_features=sensitive_features, sample_weight=sample_weight)
        validate_data(self, X, y, skip_check_array=True)
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        check_consistent_length(X, labels)
        weights = check_weights(sample_weight, len(labels))
        if weights is not None and not weights.any():
            raise ValueError("every sample_weight is zero; nothing is left to learn from")
        groups = as_groups(sensitive_features, len(labels)) if len(labels) > 1 else None
        if weights is not None and not weights.all():
            kept = np.flatnonzero(weights)
            X, labels, weights = take_rows(X, kept), labels[kept], weights[kept]
            groups = None if groups is None else _taken(groups, kept)
        self.classes_ = np.unique(labels)
        if len(self.classes_) != 2:
            raise ValueError(
                f"{type(self).__name__} decides between two labels, but y has "
                f"{_counted(len(self.classes_))}. Only binary classification is supported; "
                "compare one label with the rest"
            )
        if groups is None or len(groups.labels) < 2:
            raise ValueError("sensitive_features has one group only; fairness compares two or more")
        groups.warn_if_small(stacklevel=2)
        positive = labels == self._favourable()
        decided, unmitigated = self._fit(X, positive, groups, weights)
        self._warn_if_useless(decided, unmitigated)
        if self.seed_ is not None and hasattr(self, "constraints"):
            drawn = (decided > row_uniforms(X, self.seed_)).astype(np.float64)
            of_all = np.ones(len(positive)) if weights is None else weights
            for rate in compared_rates(self.constraints):
                within = _WITHIN.get(rate)
                wrong = rate == "zero_one_loss"
                warn_if_drawn_apart(
                    rate.replace("_", " "),
                    np.abs(positive - drawn) if wrong else drawn,
                    np.abs(positive - decided) if wrong else decided,
                    decided * (1 - decided),
                    groups.codes,
                    of_all if within is None else of_all * (positive == within),
                    "draw for each row by itself with the probabilities of predict_proba, or "
                    "pass deterministic=True",
                    stacklevel=2,
                )
        return self

    @abstractmethod
    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Learn, and say what is decided about the rows.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Untouched.
        y : numpy.ndarray of shape (n,), bool
            Which rows have the favourable label; both kinds occur.
        groups : Groups
            Of the rows; at least two.
        sample_weight : numpy.ndarray of shape (n,) or None
            Positive.

        Returns
        -------
        decided : numpy.ndarray of shape (n,)
            Probability that the row is decided favourably (of a decision without chance: 0 or 1).
        unmitigated : numpy.ndarray of shape (n,) or None
            The same without mitigation, where such a model is at hand.
        """

    def _probability(self, X: Any) -> np.ndarray:
        """Return the probability of the favourable label, shape (n,)."""
        raise NotImplementedError(f"{type(self).__name__} has no probabilities")

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of ``classes_``.

        Of a classifier that draws its decisions, the probabilities of the draw.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.

        Returns
        -------
        numpy.ndarray of shape (n, 2)
        """
        self._check_rows(X)
        return self._columns(self._probability(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return one of ``classes_`` for each row.

        Where decisions are drawn, equal rows get equal decisions, in any batch. Rows rounded to
        float32 are other rows, with other draws.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Rows.

        Returns
        -------
        numpy.ndarray of shape (n,)
        """
        self._check_rows(X)
        return self._labels(X, self._probability(X))

    def _check_rows(self, X: Any) -> None:
        check_is_fitted(self)
        if getattr(X, "ndim", 2) == 1:
            raise ValueError(
                f"X must have shape (n, {self.n_features_in_}), got one dimension. Reshape your "
                "data with X.reshape(-1, 1) if it has one column, or X.reshape(1, -1) if one row"
            )
        validate_data(self, X, reset=False, skip_check_array=True)

    def _favourable(self) -> Any:
        """Return the favourable label: ``pos_label``, or the second of ``classes_``."""
        wanted = getattr(self, "pos_label", None)
        if wanted is None:
            return self.classes_[1]
        if wanted not in self.classes_.tolist():
            raise ValueError(
                f"pos_label {wanted!r} is not among the labels {self.classes_.tolist()} of y"
            )
        return wanted

    def _columns(self, probability: np.ndarray) -> np.ndarray:
        """Return probabilities of the favourable label (n,) as those of ``classes_`` (n, 2)."""
        columns = np.stack([1 - probability, probability], axis=1)
        return columns if self.classes_[1] == self._favourable() else columns[:, ::-1]

    def _labels(self, X: Any, probability: np.ndarray) -> np.ndarray:
        """Return labels: drawn with these probabilities if there is a seed, else the likelier."""
        cut = 0.5 if self.seed_ is None else row_uniforms(X, self.seed_)
        favourable = probability > cut
        chosen: np.ndarray = self.classes_[
            np.where(self.classes_[1] == self._favourable(), favourable, ~favourable).astype(int)
        ]
        return chosen

    def _warn_if_useless(self, decided: np.ndarray, unmitigated: np.ndarray | None) -> None:
        if np.ptp(decided) < 1e-6:
            warnings.warn(
                f"{type(self).__name__} decides alike about every training row (favourable with "
                f"probability {decided.mean():.3g}): fair, and of no use; weaken the constraint",
                TrustmlWarning,
                stacklevel=3,
            )
        elif unmitigated is not None and np.allclose(decided, unmitigated, rtol=0, atol=1e-6):
            warnings.warn(
                f"{type(self).__name__} decides about every training row as the unmitigated model "
                "does: either that model meets the constraint, or mitigation failed; measure the "
                "gap, and strengthen the constraint if it is too large",
                TrustmlWarning,
                stacklevel=3,
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        inner = getattr(self, "estimator", None)
        if inner is not None and hasattr(inner, "__sklearn_tags__"):
            tags.input_tags = get_tags(inner).input_tags
        return tags


def _taken(groups: Groups, rows: np.ndarray) -> Groups:
    present, codes = np.unique(groups.codes[rows], return_inverse=True)
    return Groups(codes, tuple(groups.labels[i] for i in present), groups.names)


def _counted(n: int) -> str:
    return "one class" if n == 1 else f"{n} classes"
