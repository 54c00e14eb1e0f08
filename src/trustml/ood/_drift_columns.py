"""Which columns have moved: a test of each, corrected for how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.results import Result
from trustml.core.validation import frame_columns, to_numpy
from trustml.evidence import TestResult, adjust, chi2_test, ks_test

_FEW_VALUES = 10
Column = NDArray[Any]


@dataclass(frozen=True, eq=False)
class DriftByFeature(Result):
    """A test of each column: Kolmogorov-Smirnov for numbers, chi-squared for categories.

    Missing values are a category; among numbers they count as the largest.

    Attributes
    ----------
    names : tuple of str
        The columns.
    of : {"inputs", "features", "outputs", "gradients"}
        Whose columns they are.
    statistic : array of shape (d,)
        Largest gap of the two distribution functions, in [0, 1]; or chi-squared.
    p_value : array of shape (d,)
        Of each column by itself.
    adjusted_p_value : array of shape (d,)
        Corrected for the number of columns. Holm's: the columns below alpha have moved, with
        probability of any false one <= alpha.
    effect_size : array of shape (d,)
        How much has moved, in [0, 1], whatever n: the largest gap, or Cramér's V.
    test : tuple of {"ks", "chi2"}
        Of each column.
    """

    names: tuple[str, ...]
    of: str
    statistic: NDArray[np.float64]
    p_value: NDArray[np.float64]
    adjusted_p_value: NDArray[np.float64]
    effect_size: NDArray[np.float64]
    test: tuple[str, ...]

    def __len__(self) -> int:
        """Return d, the number of columns."""
        return len(self.names)

    def __repr__(self) -> str:
        """Name the columns that moved most."""
        return f"DriftByFeature({len(self)} {self.of}, most moved: {', '.join(self.top(3))})"

    def top(self, k: int = 5) -> list[str]:
        """Return the names of the k columns that moved most, by p-value and then effect size."""
        order = np.lexsort((-self.effect_size, self.p_value))[:k]
        return [self.names[j] for j in order]

    def _columns(self) -> dict[str, Any]:
        return {
            "feature": np.array(self.names),
            "test": np.array(self.test),
            "statistic": self.statistic,
            "p_value": self.p_value,
            "adjusted_p_value": self.adjusted_p_value,
            "effect_size": self.effect_size,
        }


def as_columns(X: Any) -> list[Column] | None:
    """Return the columns of a table, rows flattened; None for a Dataset, text or dict."""
    is_frame = frame_columns(X) is not None
    if not (is_frame or isinstance(X, (np.ndarray, Tensor, list))):
        return None
    array = to_numpy(X)
    if array.ndim < 2 or not len(array) or (array.dtype.kind not in "biuf" and not is_frame):
        return None
    return [_numbers(column) for column in array.reshape(len(array), -1).T]


def column_names(columns: Sequence[Column], given: Sequence[str] | None, prefix: str) -> list[str]:
    """Return the given names if there is one a column, otherwise numbered ones."""
    if given is not None and len(given) == len(columns):
        return list(given)
    return [f"{prefix}{j}" for j in range(len(columns))]


def by_feature(
    names: Sequence[str],
    of: str,
    reference: Sequence[Column],
    new: Sequence[Column],
    categorical: Sequence[str] | None,
    correction: str,
) -> DriftByFeature:
    """Test each column: by KS, or by chi-squared those that are categories."""
    unknown = set(categorical or ()) - set(names)
    if unknown:
        raise ValueError(
            f"categorical names {sorted(unknown)}, which the {of} have not; choose from "
            f"{', '.join(names[:20])}"
        )
    check_columns(reference, new)
    kinds = tuple(
        "chi2" if _is_categorical(name, x, y, categorical) else "ks"
        for name, x, y in zip(names, reference, new, strict=True)
    )
    tests = [column_test(kind)(x, y) for kind, x, y in zip(kinds, reference, new, strict=True)]
    p_value = np.array([test.p_value for test in tests])
    return DriftByFeature(
        tuple(names),
        of,
        np.array([test.statistic for test in tests]),
        p_value,
        np.asarray(adjust(p_value, correction)),
        np.array([float(test.effect_size or 0.0) for test in tests]),
        kinds,
    )


def check_columns(reference: Sequence[Column], new: Sequence[Column]) -> None:
    """Refuse tables of different width."""
    if len(reference) != len(new):
        raise ValueError(
            f"X_ref and X_new must have the same columns, got {len(reference)} and {len(new)}"
        )


def check_order(reference: Sequence[str] | None, new: Sequence[str] | None) -> None:
    """Refuse frames of the same columns in two orders: models and tests go by position."""
    if reference is None or new is None or list(reference) == list(new):
        return
    if sorted(reference) == sorted(new):
        raise ValueError(
            "X_ref and X_new have the same columns in different orders; reorder one, as by "
            "X_new[X_ref.columns]"
        )


def column_test(kind: str) -> Callable[[Column, Column], TestResult]:
    """Return the test of one column by its short name."""
    return chi2_test if kind == "chi2" else _ks_test


def _ks_test(x: Column, y: Column) -> TestResult:
    """Compare two columns; missing values are the largest of all, so that their share counts."""
    return ks_test(np.where(np.isnan(x), np.inf, x), np.where(np.isnan(y), np.inf, y))


def _is_categorical(name: str, x: Column, y: Column, given: Sequence[str] | None) -> bool:
    if not all(column.dtype.kind == "f" for column in (x, y)):
        return True
    if given is not None:
        return name in given
    # Most columns show so many values at once: only the others are looked through.
    few = all(len(np.unique(column[: 5 * _FEW_VALUES])) <= _FEW_VALUES for column in (x, y))
    return few and len(np.unique(np.concatenate([x, y]))) <= _FEW_VALUES


def _numbers(column: Column) -> Column:
    """Return a column as float64, or as it is if it holds anything but numbers."""
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError):
        return column
