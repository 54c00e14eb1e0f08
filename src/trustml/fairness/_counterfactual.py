"""Would a row be decided otherwise if its sensitive column said something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
from torch import Tensor

from trustml.core.validation import column_of, to_numpy
from trustml.fairness._groups import _refuse_missing
from trustml.fairness._measure import FairnessMeasure
from trustml.model import as_model

_MAX_VALUES = 50


def counterfactual_flip_rate(
    model: Any, X: Any, column: str | int | Sequence[str | int]
) -> FairnessMeasure:
    """Return the share of rows decided otherwise with another value in the sensitive column.

    Each row gets every other value that occurs, all else equal. Only the column itself is changed:
    a rate of 0 says that the model does not look at it, not that nothing else tells of it.

    Parameters
    ----------
    model : Model, or anything ``wrap`` takes
        A classifier.
    X : array, tensor or frame of shape (n, d)
        Rows, with the sensitive column, as the model takes them.
    column : str, int, or a list of these
        Name, of a frame, or number. Several columns are set together: those of a one-hot code.

    Returns
    -------
    FairnessMeasure
        ``value`` in [0, 1] is the share of rows that flip for at least one other value, and
        ``rows`` are these rows. The table has the rate for each change of value.

    Raises
    ------
    ValueError
        If the model is no classifier, or the column has one value only, or more than 50.
    TypeError
        If X is neither array, tensor nor frame.

    References
    ----------
    Kusner et al. (2017), Counterfactual fairness, arXiv:1703.06856, for what it would take to
    change what depends on the column as well.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X = np.array([[0, 1], [0, 3], [1, 1], [1, 3]])
    >>> tree = DecisionTreeClassifier().fit(X, [0, 0, 1, 1])
    >>> counterfactual_flip_rate(tree, X, 0).value, counterfactual_flip_rate(tree, X, 1).value
    (1.0, 0.0)
    """
    model = as_model(model)
    if model.task != "classification":
        raise ValueError(f"decisions flip, but the model's task is {model.task}; pass a classifier")
    if isinstance(X, (dict, str)) or not hasattr(X, "shape"):
        raise TypeError(f"X must be an array, tensor or frame, got {type(X).__name__}")
    columns = [column] if isinstance(column, (str, int)) else list(column)
    read = [column_of(X, key) for key in columns]
    for key, found in zip(columns, read, strict=True):
        _refuse_missing(found, str(key))
    values = [found.tolist() for found in read]
    keys = values[0] if len(values) == 1 else list(zip(*values, strict=True))
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    if not 2 <= len(first) <= _MAX_VALUES:
        raise ValueError(
            f"column {column!r} has {len(first)} different values; from 2 to {_MAX_VALUES} can be "
            "exchanged: check the column, or bin it"
        )
    present = sorted(first, key=lambda key: (type(key).__name__, key))
    member = {key: np.array([k == key for k in keys]) for key in present}
    decided = to_numpy(model.predict(X))
    flipped = np.zeros(len(keys), dtype=bool)
    lines: list[tuple[str, float, int, str]] = []
    for to in present:
        other = to_numpy(model.predict(_set_as_in(X, columns, first[to])))
        changed = (other != decided) & ~member[to]
        flipped |= changed
        for source in present:
            if source == to:
                continue
            rows = member[source]
            hits = changed & rows
            lines.append(
                (
                    f"{source} -> {to}",
                    float(hits[rows].mean()),
                    int(rows.sum()),
                    _usual(decided[hits], other[hits]),
                )
            )
    lines.sort(key=lambda line: (-line[1], line[0]))
    name = ", ".join(str(key) for key in columns)
    words = f"{int(flipped.sum())} of {len(keys)} rows are decided otherwise with another {name}"
    if flipped.any():
        words += f"; most often {lines[0][0]} ({lines[0][1]:.3g} of {lines[0][2]}): {lines[0][3]}"
    texts, rates, counts, usual = zip(*lines, strict=True)
    table = {
        name: np.array(texts, dtype=object),
        "flip rate": np.array(rates),
        "rows": np.array(counts),
        "decision, most often": np.array(usual, dtype=object),
    }
    return FairnessMeasure(
        "counterfactual flip rate", float(flipped.mean()), words, table, np.flatnonzero(flipped)
    )


def _usual(before: np.ndarray, after: np.ndarray) -> str:
    """Say the most frequent change of decision."""
    pairs = list(zip(before.tolist(), after.tolist(), strict=True))
    if not pairs:
        return ""
    most = max(dict.fromkeys(pairs), key=pairs.count)
    return f"{most[0]} becomes {most[1]}"


def _set_as_in(X: Any, columns: list[Any], row: int) -> Any:
    """Return X with the columns of every row as they are in one row."""
    native = nw.from_native(X, pass_through=True)
    if isinstance(native, nw.DataFrame):
        # Taken from the row rather than written: categories keep their type.
        order = [str(name) for name in native.columns]
        names = [key if isinstance(key, int) else order.index(key) for key in columns]
        everywhere = [row] * len(native)
        return native.with_columns(*(native[:, key][everywhere] for key in names)).to_native()
    changed = X.clone() if isinstance(X, Tensor) else np.array(X, copy=True)
    changed[:, columns] = X[row, columns]
    return changed
