"""What transformers of columns that look at groups have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import narwhals.stable.v1 as nw
import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import validate_data
from torch import Tensor

from trustml.core.validation import restore


class GroupTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, ABC):
    """Base of transformers that need the groups of the rows, in ``fit`` and in ``transform``."""

    @abstractmethod
    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Self:
        """Learn from rows whose groups are known."""

    @abstractmethod
    def transform(self, X: Any, *, sensitive_features: Any = None) -> Any:
        """Return the changed columns."""

    def fit_transform(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Any:
        """Fit, and return the rows without the correlation.

        Parameters
        ----------
        X : array or frame of shape (n, d)
            Numbers.
        y : object
            Not looked at.
        sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
            As in ``fit``.

        Returns
        -------
        array or frame of shape (n, d)
        """
        self.fit(X, sensitive_features=sensitive_features)
        return self.transform(X, sensitive_features=sensitive_features)


def numbers(estimator: Any, X: Any, reset: bool = True) -> np.ndarray:
    """Return rows as float64 (n, d), checked by scikit-learn."""
    table = X.detach().cpu() if hasattr(X, "detach") else X
    fewest = 2 if reset else 1
    rows: np.ndarray = validate_data(
        estimator, table, dtype=np.float64, ensure_min_samples=fewest, reset=reset
    )
    return rows


def check_share(value: Any, name: str) -> None:
    """Refuse what is not a number in [0, 1]."""
    if isinstance(value, (bool, str)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def like_table(values: np.ndarray, X: Any) -> Any:
    """Return columns (n, d) in the kind of ``X``: a frame with its own names and index, a tensor.

    Parameters
    ----------
    values : numpy.ndarray of shape (n, d)
        What became of the columns of ``X``.
    X : array, tensor or frame of shape (n, d)
        What the user passed.

    Returns
    -------
    numpy.ndarray, Tensor or frame of shape (n, d)
    """
    if isinstance(X, (np.ndarray, Tensor, list, tuple)):
        return restore(values, X)
    frame = nw.from_native(X, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, nw.DataFrame):
        return values
    space = nw.get_native_namespace(frame)
    columns = [
        nw.new_series(name, np.ascontiguousarray(values[:, j]), backend=space)
        for j, name in enumerate(frame.columns)
    ]
    return frame.with_columns(columns).to_native()
