"""Labels of rows to columns of sets and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import to_numpy


def columns_of(y_true: Any, n_rows: int, n_columns: int, classes: Any) -> np.ndarray:
    """Return the column (n,) of each row's label; ``classes`` None means 0..c-1.

    Returns
    -------
    int ndarray of shape (n,)

    Raises
    ------
    ValueError
        If shapes do not fit, or a label is not among the classes.
    """
    y = np.asarray(to_numpy(y_true))
    if y.shape != (n_rows,):
        raise ValueError(f"y_true must have shape ({n_rows},), got {y.shape}")
    labels = np.arange(n_columns) if classes is None else np.asarray(to_numpy(classes))
    if labels.shape != (n_columns,):
        raise ValueError(f"classes must have shape ({n_columns},), got {labels.shape}")
    match = y[:, None] == labels[None, :]
    known = match.any(axis=1)
    if not known.all():
        raise ValueError(
            f"y_true has labels that are not among the columns: "
            f"{np.unique(y[~known]).tolist()[:5]}; pass classes=... in the order of the columns"
        )
    column: np.ndarray = match.argmax(axis=1)
    return column
