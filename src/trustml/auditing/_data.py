"""The user's test data in the few forms that the checks need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustml.core.validation import frame_columns, to_numpy

MAX_GROUPS = 20


def length(X: Any) -> int:
    """Return the number of rows of an array, tensor, list or frame."""
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def rows_of(X: Any, name: str) -> Any:
    """Check that `X` is a table or block of rows that can be indexed.

    Returns
    -------
    array, tensor or frame
        `X`; lists become arrays.

    Raises
    ------
    TypeError
        If `X` is a loader, a data set or a dict.
    ValueError
        If it has no rows.
    """
    if isinstance(X, (list, tuple)):
        X = np.asarray(X)
    if not hasattr(X, "shape") or isinstance(X, Mapping):
        raise TypeError(
            f"{name} must be an array, a tensor or a data frame, got {type(X).__name__}; "
            "materialise loaders and data sets first (torch.stack, np.concatenate)"
        )
    if len(X.shape) < 2:
        raise ValueError(
            f"{name} must have shape (n, ...) with one row an example, got {tuple(X.shape)}; "
            "reshape a single feature with X[:, None]"
        )
    if length(X) == 0:
        raise ValueError(f"{name} has no rows; give at least one example")
    return X


def group_labels(sensitive_features: Any, n: int) -> dict[str, NDArray[Any]]:
    """Return each sensitive feature as an array of n group names.

    Parameters
    ----------
    sensitive_features : array, Series, frame, mapping or None
        One column (named "group" if it has no name of its own) or several.
    n : int
        Rows that each must have.

    Returns
    -------
    dict of str to ndarray of str, shape (n,)

    Raises
    ------
    ValueError
        If a length differs from `n`, or a feature has too many values to be groups.
    """
    if sensitive_features is None:
        return {}
    found = {}
    for name, column in _columns(sensitive_features).items():
        values = to_numpy(column)
        if values.shape != (n,):
            raise ValueError(
                f"sensitive feature {name!r} has shape {values.shape}, expected ({n},): one "
                "group a row of X_test"
            )
        labels = np.array([_text(v) for v in values.tolist()])
        if len(np.unique(labels)) > MAX_GROUPS:
            raise ValueError(
                f"sensitive feature {name!r} has {len(np.unique(labels))} distinct values, at "
                f"most {MAX_GROUPS} groups are compared; bin it first (pandas.cut)"
            )
        found[name] = labels
    return found


def _columns(features: Any) -> dict[str, Any]:
    if isinstance(features, Mapping):
        return {str(k): v for k, v in features.items()}
    names = frame_columns(features)
    if names is not None:
        return {name: features[name] for name in names}
    values = to_numpy(features)
    if values.ndim == 2:
        return {f"feature {j}": values[:, j] for j in range(values.shape[1])}
    return {str(getattr(features, "name", None) or "group"): values}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def ood_sets(X_ood: Any) -> dict[str, Any]:
    """Return the user's out-of-distribution sets by name; one unnamed set is "given"."""
    if X_ood is None:
        return {}
    if isinstance(X_ood, Mapping):
        return {str(name): rows_of(X, f"X_ood[{name!r}]") for name, X in X_ood.items()}
    return {"given": rows_of(X_ood, "X_ood")}


def image_side(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the picture shape (h, w) or (h, w, 3) of one row, None if it is no picture."""
    if len(shape) == 2 and min(shape) >= 4:
        return shape
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4:
        return shape[1:] if shape[0] == 1 else (*shape[1:], 3)
    return None


def pictures(X: NDArray[Any]) -> NDArray[Any]:
    """Return rows (n, h, w), (n, 1, h, w) or (n, 3, h, w) as (n, h, w[, 3]) for drawing."""
    if X.ndim == 4:
        return X[:, 0] if X.shape[1] == 1 else np.moveaxis(X, 1, -1)
    return X
