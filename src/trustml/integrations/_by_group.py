"""Classifiers of third parties that may decide by group."""

from __future__ import annotations

from typing import Any

from sklearn.metrics import accuracy_score

from trustml.fairness._mitigator import FairClassifier


class ByGroup(FairClassifier):
    """Base of classifiers whose ``predict`` takes groups, where they decide by group."""

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
            As in ``predict``.

        Returns
        -------
        float
        """
        found = self.predict(X, sensitive_features=sensitive_features)  # type: ignore[call-arg]
        return float(accuracy_score(y, found, sample_weight=sample_weight))
