"""Columns without linear correlation with the sensitive ones."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from trustml.core.alignment import check_aligned
from trustml.fairness._group_transformer import GroupTransformer, check_share, like_table, numbers
from trustml.fairness._known_groups import check_given, sensitive_columns

_CATEGORIES = 10  # numbers with at most so many distinct values are codes of groups


class CorrelationRemover(GroupTransformer):
    """Take off each column what a linear function of the sensitive columns says about it.

    The residuals of a least squares fit are uncorrelated with every sensitive column, hence of
    equal mean in all groups of each. Leave the sensitive columns themselves out of ``X``. What
    depends on them beyond the mean stays: a strong learner may still find the groups.

    Parameters
    ----------
    alpha : float in [0, 1]
        Share of the correlation that is taken off: the result is ``alpha`` times the residuals
        plus ``1 - alpha`` times the column.

    Attributes
    ----------
    coef_ : numpy.ndarray of shape (s, d)
        Change of each column by each of the s dummies and numbers that stand for the sensitive
        columns, in the column's unit.
    mean_ : numpy.ndarray of shape (s,)
        Of these over the rows of ``fit``.

    References
    ----------
    Weerts et al. (2023), Fairlearn: assessing and improving fairness of AI systems,
    arXiv:2303.16626.

    Examples
    --------
    >>> X, s = [[1.0], [2.0], [5.0], [6.0]], ["a", "a", "b", "b"]
    >>> CorrelationRemover().fit_transform(X, sensitive_features=s).round(6).ravel()
    array([3., 4., 3., 4.])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Self:
        """Regress the columns on the sensitive ones.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        y : object
            Not looked at.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Columns of text, booleans, or at most 10 distinct numbers are groups, others numbers.

        Returns
        -------
        CorrelationRemover
            Itself.
        """
        check_given(self, "fit", sensitive_features)
        check_share(self.alpha, "alpha")
        check_aligned(X=X, sensitive_features=sensitive_features)
        rows = numbers(self, X)
        columns = sensitive_columns(sensitive_features, len(rows))
        self._categories: dict[str, list[Any] | None] = {
            name: _categories(values) for name, values in columns.items()
        }
        design = self._design(columns)
        self.mean_ = design.mean(axis=0)
        centred = design - self.mean_
        # Columns of one length: else least squares could take a short one for rounding noise.
        length = np.linalg.norm(centred, axis=0)
        length[length == 0] = 1.0
        solved = np.linalg.lstsq(centred / length, rows - rows.mean(axis=0), rcond=None)[0]
        self.coef_ = solved / length[:, None]
        return self

    def transform(self, X: Any, *, sensitive_features: Any = None) -> Any:
        """Return the columns less what the sensitive ones say.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            Of these rows, the same columns as in ``fit``.

        Returns
        -------
        array or frame of shape (n, d)
            In the kind of ``X``, names kept.
        """
        check_is_fitted(self)
        check_given(self, "transform", sensitive_features)
        rows = numbers(self, X, reset=False)
        columns = sensitive_columns(sensitive_features, len(rows), tuple(self._categories))
        said = (self._design(columns) - self.mean_) @ self.coef_
        return like_table(rows - self.alpha * said, X)

    def _design(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        parts = []
        for name, values in columns.items():
            categories = self._categories[name]
            if categories is None:
                parts.append(np.asarray(values, dtype=np.float64)[:, None])
                continue
            code = {value: j for j, value in enumerate(categories)}
            unseen = list(dict.fromkeys(v for v in values.tolist() if v not in code))
            if unseen:
                raise ValueError(
                    f"values {unseen[:5]} of sensitive column {name!r} did not occur in fit, which "
                    f"knows {categories}"
                )
            parts.append(np.eye(len(code))[[code[v] for v in values.tolist()]])
        return np.concatenate(parts, axis=1)


def _categories(values: np.ndarray) -> list[Any] | None:
    distinct = list(dict.fromkeys(values.tolist()))
    return None if values.dtype.kind in "iuf" and len(distinct) > _CATEGORIES else distinct
