"""Weights that make label and group independent in the training data."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets

from trustml.core.alignment import check_aligned
from trustml.fairness._groups import as_groups
from trustml.fairness._known_groups import check_given, group_codes
from trustml.fairness._rates import label_vector


class Reweighing(BaseEstimator):
    """Sample weights P(group) P(label) / P(group, label), for any learner that takes weights.

    With these weights every group has the same weighted share of each label.

    Attributes
    ----------
    weights_ : dict
        (group, label) -> weight.
    sample_weight_ : numpy.ndarray of shape (n,)
        Of the rows of ``fit``; their sum is n if every group has every label.

    References
    ----------
    Kamiran and Calders (2012), Data preprocessing techniques for classification without
    discrimination.

    Examples
    --------
    >>> weights = Reweighing().fit(
    ...     None, [1, 1, 1, 0, 1, 0, 0, 0], sensitive_features=list("aaaabbbb")
    ... )
    >>> weights.sample_weight_[:4].round(3)
    array([0.667, 0.667, 0.667, 2.   ])
    """

    def fit(self, X: Any, y: Any, *, sensitive_features: Any = None) -> Self:
        """Count labels within groups.

        Parameters
        ----------
        X : object
            Not looked at.
        y : array-like of shape (n,)
            Labels; any number of classes.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.

        Returns
        -------
        Reweighing
            Itself.
        """
        check_given(self, "fit", sensitive_features)
        check_aligned(y=y, sensitive_features=sensitive_features)
        labels = label_vector(y, "y")
        check_classification_targets(labels)
        groups = as_groups(sensitive_features, len(labels))
        self._groups = groups
        classes, code = np.unique(labels, return_inverse=True)
        joint = np.zeros((len(groups.labels), len(classes)))
        np.add.at(joint, (groups.codes, code), 1.0)
        expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True) / len(labels)
        table = np.divide(expected, joint, out=np.ones_like(joint), where=joint > 0)
        self.weights_ = {
            (group, label): float(table[g, c])
            for g, group in enumerate(groups.labels)
            for c, label in enumerate(classes.tolist())
            if joint[g, c] > 0
        }
        self.sample_weight_ = table[groups.codes, code]
        return self

    def sample_weight(self, y: Any, *, sensitive_features: Any = None) -> np.ndarray:
        """Return the weights of other rows.

        Parameters
        ----------
        y : array-like of shape (n,)
            Labels.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Group membership.

        Returns
        -------
        numpy.ndarray of shape (n,)

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If a pair of group and label did not occur in ``fit``.
        """
        if not hasattr(self, "weights_"):
            raise NotFittedError(
                "Reweighing is not fitted yet: call fit(X, y, sensitive_features=)"
            )
        check_given(self, "sample_weight", sensitive_features)
        check_aligned(y=y, sensitive_features=sensitive_features)
        labels = label_vector(y, "y")
        codes = group_codes(sensitive_features, len(labels), self._groups)
        known = self._groups.labels
        keys = [(known[g], c) for g, c in zip(codes, labels.tolist(), strict=True)]
        unseen = sorted({str(key) for key in keys if key not in self.weights_})
        if unseen:
            raise ValueError(
                f"(group, label) pairs {unseen[:5]} did not occur in fit, which knows "
                f"{list(self.weights_)[:10]}"
            )
        return np.array([self.weights_[key] for key in keys])
