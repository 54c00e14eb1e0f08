"""Sets and p-values from ranks among the training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import read_alphas
from trustml.conformal._plus_interval import warn_if_too_few
from trustml.core.validation import restore

TIE = 1e-9  # scores this near are equal: rounding must not tell a row from its twin


class RankedClassifier(BaseEstimator, ABC):
    """A classifier whose every training row calibrates; fitted, it has ``n_train_`` of them."""

    n_train_: int

    def predict_set(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return which labels are in each row's set: {p > alpha}.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of them
            Allowed error rate. Sets of a smaller alpha contain those of a larger one.

        Returns
        -------
        bool array of shape (m, c), or (m, c, a) for a list
            Columns in the order of ``classes_``; a row may be empty.

        Warns
        -----
        CoverageWarning
            If there are too few training rows for alpha; the sets are full.
        """
        check_is_fitted(self, "n_train_")
        alphas, single = read_alphas(alpha)
        warn_if_too_few(self.n_train_, alphas)
        ranks = self._ranks(X)
        # p > alpha in whole numbers: rank > alpha (n + 1).
        sets = np.stack([ranks > (self.n_train_ + 1) * a for a in alphas], axis=2)
        return restore(sets[:, :, 0] if single else sets, X)

    def p_values(self, X: Any) -> Any:
        """Return the conformal p-value of every label.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.

        Returns
        -------
        array of shape (m, c)
            In (0, 1]; how nearly the true label's is super-uniform is said above.
        """
        check_is_fitted(self, "n_train_")
        return restore(self._ranks(X) / (self.n_train_ + 1), X)

    @abstractmethod
    def _ranks(self, X: Any) -> np.ndarray:
        """Return 1 + #{scores of training rows >= that of the new row}, shape (m, c)."""
