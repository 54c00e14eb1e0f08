"""Groups of new rows, as those seen in ``fit``."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.fairness._groups import Groups, _columns, _refuse_missing


def sensitive_columns(sensitive_features: Any, n: int) -> dict[str, np.ndarray]:
    """Return the sensitive columns by name, each (n,) and without missing values.

    Parameters
    ----------
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership, or measurements.
    n : int
        Rows that are expected.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a length is wrong or a value is missing.
    """
    columns = _columns(sensitive_features)
    for name, values in columns.items():
        if len(values) != n:
            raise ValueError(
                f"sensitive_features must have one row for each of the {n} rows of X, but column "
                f"{name!r} has {len(values)}"
            )
        _refuse_missing(values, name)
    return columns


def group_codes(sensitive_features: Any, n: int, known: Groups) -> np.ndarray:
    """Return the index into ``known.labels`` of each row's group; one group, or one row, will do.

    Parameters
    ----------
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership.
    n : int
        Rows that are expected.
    known : Groups
        Of ``fit``.

    Returns
    -------
    numpy.ndarray of shape (n,), int

    Raises
    ------
    ValueError
        If a group did not occur in ``fit``, or the columns are others.
    """
    columns = [values.tolist() for values in sensitive_columns(sensitive_features, n).values()]
    if len(columns) != len(known.names):
        raise ValueError(
            f"fit saw {len(known.names)} sensitive columns ({', '.join(known.names)}), got "
            f"{len(columns)}"
        )
    keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    position = {label: code for code, label in enumerate(known.labels)}
    unseen = list(dict.fromkeys(key for key in keys if key not in position))
    if unseen:
        raise ValueError(
            f"groups {unseen[:5]} did not occur in fit, which knows {list(known.labels)}; fit on "
            "rows of every group"
        )
    return np.fromiter((position[key] for key in keys), dtype=np.int64, count=n)
