"""Arrays whose axes also answer to names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from trustml.core.results import text_table


class NamedArray(np.ndarray):
    """A numpy array that can be indexed by the names of its axes.

    ``values["selection_rate"]`` is a column, ``values["Female"]`` a row, ``values["F", "old"]`` the
    row of an intersection, ``values["Female", "selection_rate"]`` a number. Names come first, those
    of the last axis before those of the rows. Where an axis is called by numbers, a whole number is
    a name and never a position; ``numpy.asarray`` has positions. Everything else is numpy's;
    results of arithmetic and slices are without names. ``direction`` says in words how differences
    are signed, None for anything else.
    """

    _names: tuple[Any, ...] | None
    _rows: tuple[Any, ...] | None
    _middle: tuple[Any, ...] | None
    direction: str | None

    def __new__(
        cls,
        values: Any,
        names: tuple[Any, ...],
        rows: tuple[Any, ...] | None = None,
        direction: str | None = None,
        middle: tuple[Any, ...] | None = None,
    ) -> Self:
        array = np.array(values, dtype=np.float64).view(cls)
        array._names, array._rows, array._middle = names, rows, middle
        array.direction = direction
        return array

    def __array_finalize__(self, source: Any) -> None:
        self._names = self._rows = self._middle = self.direction = None

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))  # by position, whatever the rows are called

    def __getitem__(self, key: Any) -> Any:
        axes = self._axes
        for axis in range(len(axes))[::-1]:
            place = _place(axes[axis], key)
            if place is not None:
                return self._at(axis, place)
        parts = key if isinstance(key, tuple) and key else (key,)
        first = _place(axes[0], parts[0]) if len(parts) > 1 and len(axes) > 1 else None
        if first is not None:
            return self._at(0, first)[parts[1] if len(parts) == 2 else parts[1:]]
        named = any(isinstance(part, str) for part in parts)
        if named or any(map(_numbered, axes, parts)) or (axes and _numbered(axes[0], key)):
            names = [name for labels in axes[::-1] for name in labels]
            raise KeyError(f"{key!r} is not one of {names}; numpy.asarray(...) goes by position")
        return np.asarray(self)[key]

    @property
    def _axes(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(labels for labels in (self._rows, self._middle, self._names) if labels)

    def _at(self, axis: int, place: int) -> Any:
        """Return what is at one place of an axis, with the names of the others."""
        axes = self._axes
        left = axes[:axis] + axes[axis + 1 :]
        values = np.asarray(self).take(place, axis)
        if not left:
            return float(values)
        return NamedArray(values, left[-1], left[0] if len(left) > 1 else None)

    def __repr__(self) -> str:
        if self._names is None or self.ndim > 2:
            return repr(np.asarray(self))
        if self._rows is None:
            labels = np.array([str(name) for name in self._names])
            return text_table({"": labels, "value": np.asarray(self)}, max_rows=self.size)
        labels = np.array([str(row) for row in self._rows])
        columns = np.asarray(self).T
        named = {str(name): c for name, c in zip(self._names, columns, strict=True)}
        table = text_table({"": labels} | named, max_rows=len(self))
        return f"{self.direction}\n{table}" if self.direction else table

    def __str__(self) -> str:
        return str(np.asarray(self)) if self._names is None else repr(self)

    def __reduce__(self) -> Any:
        settings = self._names, self._rows, self.direction, self._middle
        return NamedArray, (np.asarray(self), *settings)


def _place(labels: tuple[Any, ...], key: Any) -> int | None:
    """Return where a label is; True is no name for 1."""
    if isinstance(key, (list, slice)):
        return None
    return next((place for place, label in enumerate(labels) if _same(label, key)), None)


def _same(label: Any, key: Any) -> bool:
    if isinstance(label, tuple) and isinstance(key, tuple):
        return len(label) == len(key) and all(map(_same, label, key))
    if isinstance(label, tuple) or isinstance(key, (tuple, slice)) or _is_array(key):
        return False
    truths = isinstance(label, (bool, np.bool_)), isinstance(key, (bool, np.bool_))
    return truths[0] == truths[1] and bool(label == key)


def _numbered(labels: tuple[Any, ...], key: Any) -> bool:
    """Say whether a key is a number, or several, on an axis that is called by such."""
    if isinstance(key, tuple):
        tuples = [label for label in labels if isinstance(label, tuple) and len(label) == len(key)]
        return any(all(_numbered((a,), b) for a, b in zip(t, key, strict=True)) for t in tuples)
    return isinstance(key, (bool, int, np.bool_, np.integer)) and any(
        isinstance(label, (bool, int, float)) for label in labels
    )


def _is_array(key: Any) -> bool:
    return hasattr(key, "ndim") and key.ndim > 0
