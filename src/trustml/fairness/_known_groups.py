"""Groups of new rows, as those seen in ``fit``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from trustml.fairness._groups import Groups, _columns, _refuse_missing

# What a column is called that came without a name: in an array, a series, a frame made of one.
_NAMELESS = re.compile(r"(sensitive_feature_)?\d+")


def check_given(asked: Any, method: str, sensitive_features: Any) -> None:
    """Refuse None, in the name of the public class and of its method."""
    if sensitive_features is None:
        raise TypeError(
            f"{type(asked).__name__}.{method} needs sensitive_features=: one value a row, its "
            "group. In a pipeline or a search scikit-learn passes it on, after "
            "sklearn.set_config(enable_metadata_routing=True) and a request, as in "
            f"{type(asked).__name__}(...).set_fit_request(sensitive_features=True)"
        )


def sensitive_columns(
    sensitive_features: Any, n: int, known: tuple[str, ...] | None = None
) -> dict[str, np.ndarray]:
    """Return the sensitive columns by name, each (n,) and without missing values.

    Parameters
    ----------
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership, or measurements.
    n : int
        Rows that are expected.
    known : tuple of str or None
        Names of the columns of ``fit``: the result is in their order, and has these names. Columns
        without a name, here or there, are taken in the order in which they come.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a length is wrong, a value is missing or the columns are others than the known.
    """
    columns = _columns(sensitive_features)
    if known is not None:
        columns = _in_order(columns, known)
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
    found = sensitive_columns(sensitive_features, n, known.names)
    columns = [values.tolist() for values in found.values()]
    keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    position = {label: code for code, label in enumerate(known.labels)}
    unseen = list(dict.fromkeys(key for key in keys if key not in position))
    if unseen:
        raise ValueError(
            f"groups {unseen[:5]} did not occur in fit, which knows {list(known.labels)}; fit on "
            "rows of every group"
        )
    return np.fromiter((position[key] for key in keys), dtype=np.int64, count=n)


def _in_order(columns: dict[str, np.ndarray], known: tuple[str, ...]) -> dict[str, np.ndarray]:
    if set(columns) == set(known):
        return {name: columns[name] for name in known}
    nameless = all(map(_NAMELESS.fullmatch, columns)) or all(map(_NAMELESS.fullmatch, known))
    if len(columns) != len(known) or not nameless:
        raise ValueError(
            f"fit saw the sensitive columns {', '.join(known)}, got {', '.join(columns)}; pass "
            "those, or an array of them in that order"
        )
    return dict(zip(known, columns.values(), strict=True))
