"""The subgroups that sensitive columns can describe: conditions, conjunctions, half-spaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from trustml.core.validation import check_finite

MAX_VALUES = 50  # distinct values of a column that is no measurement
_NUMBERS = {int, float, np.int64, np.float64}
_MAX_WORK = 1e11  # multiplications of a search


@dataclass(frozen=True)
class Conditions:
    """Conditions on one column each, and which rows meet them.

    Attributes
    ----------
    words : tuple of str
        The q conditions, such as "age > 30".
    cells : bool array of shape (m, q)
        Which conditions each distinct kind of row meets.
    cell : numpy.ndarray of shape (n,)
        The kind of each row.
    """

    words: tuple[str, ...]
    cells: np.ndarray
    cell: np.ndarray


def as_measured(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns of numbers as such, whatever kind of frame they came in; infinity raises."""
    found = {}
    for name, values in columns.items():
        listed = values.tolist()
        kinds = {type(value) for value in listed} if values.dtype == object else set()
        found[name] = np.asarray(listed) if kinds and kinds <= _NUMBERS else values
        check_finite(found[name], f"sensitive column {name!r}")
    return found


def is_measured(values: np.ndarray, n_bins: int) -> bool:
    """Say whether a column holds numbers of so many values that only thresholds make sense."""
    return values.dtype.kind in "iuf" and len(np.unique(values)) > max(2 * n_bins, 3)


def conditions_of(columns: dict[str, np.ndarray], n_bins: int) -> Conditions:
    """Return the conditions on columns: values of categories, thresholds of measurements.

    Parameters
    ----------
    columns : dict of str to numpy.ndarray of shape (n,)
        Sensitive columns.
    n_bins : int
        Bins of equal mass of a measurement; their edges are the thresholds.

    Returns
    -------
    Conditions

    Raises
    ------
    ValueError
        If a column has too many values, or all have one.
    """
    words: list[str] = []
    met: list[np.ndarray] = []
    for name, values in columns.items():
        if is_measured(values, n_bins):
            for edge in np.unique(np.quantile(values, np.arange(1, n_bins) / n_bins)):
                below = values <= edge
                words += [f"{name} <= {edge:g}", f"{name} > {edge:g}"]
                met += [below, ~below]
            continue
        listed = values.tolist()
        present = sorted(dict.fromkeys(listed), key=lambda v: (type(v).__name__, v))
        if len(present) > MAX_VALUES:
            raise ValueError(
                f"sensitive column {name!r} has {len(present)} different values; group them into "
                f"at most {MAX_VALUES}, or leave it out"
            )
        code = {value: position for position, value in enumerate(present)}
        codes = np.fromiter((code[value] for value in listed), np.int64, len(listed))
        for position, value in enumerate(present if len(present) > 1 else []):
            words.append(f"{name} = {value}")
            met.append(codes == position)
            if len(present) > 2:
                words.append(f"{name} != {value}")
                met.append(codes != position)
    varied = [j for j, rows in enumerate(met) if rows.any() and not rows.all()]
    if not varied:
        raise ValueError("sensitive_features has one value only in each column: no subgroups")
    cells, cell = np.unique(np.stack([met[j] for j in varied], 1), axis=0, return_inverse=True)
    return Conditions(tuple(words[j] for j in varied), cells, cell.ravel())


def sums_over_conjunctions(
    conditions: Conditions, costs: np.ndarray, depth: int
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield the sums of costs over all conjunctions of at most ``depth`` conditions.

    Parameters
    ----------
    conditions : Conditions
        As of ``conditions_of``.
    costs : numpy.ndarray of shape (n,)
        One for each row.
    depth : int
        Conditions that are joined.

    Yields
    ------
    prefix : tuple of int
        Conditions that are fixed.
    sums : numpy.ndarray of shape (q, q), or (q,) for ``depth=1``
        Sums over the rows that meet the prefix and conditions a and b; a may be b.

    Raises
    ------
    ValueError
        If there are too many conjunctions.
    """
    m, q = conditions.cells.shape
    met = conditions.cells.astype(np.float64)
    total = np.bincount(conditions.cell, costs, minlength=m)
    if depth == 1:
        yield (), total @ met
        return
    prefixes = list(combinations(range(q), depth - 2)) if q**depth < _MAX_WORK else []
    if len(prefixes) * m * q * q > _MAX_WORK or not prefixes:
        raise ValueError(
            f"conjunctions of {depth} of {q} conditions are too many to search; lower depth= or "
            "n_bins=, or merge values"
        )
    for prefix in prefixes:
        weighted = total * conditions.cells[:, list(prefix)].all(1)
        yield prefix, (met * weighted[:, None]).T @ met


def linear_features(
    columns: dict[str, np.ndarray], n_bins: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return standardised measurements and indicators of values, (n, d), and their names."""
    parts: list[np.ndarray] = []
    names: list[str] = []
    for name, values in columns.items():
        if is_measured(values, n_bins):
            spread = float(values.std())
            parts.append((values - values.mean()) / spread)
            names.append(f"(standardised {name})")
            continue
        found = conditions_of({name: values}, n_bins) if len(set(values.tolist())) > 1 else None
        for j, words in enumerate(found.words if found else ()):
            if " != " not in words and found is not None:
                parts.append(found.cells[found.cell, j].astype(np.float64))
                names.append(f"[{words}]")
    if not parts:
        raise ValueError("sensitive_features has one value only in each column: no subgroups")
    return np.stack(parts, axis=1), tuple(names)
