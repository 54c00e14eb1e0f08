"""Arrays whose axes also answer to names."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from trustml.core.results import text_table


class NamedArray(np.ndarray):
    """A numpy array that can be indexed by the names of its last axis, or of its rows.

    ``values["selection_rate"]`` is a column, ``values["Female"]`` a row. Everything else is
    numpy's; results of arithmetic and slices are without names. ``direction`` says in words how
    differences are signed, None for anything else.
    """

    _names: tuple[Any, ...] | None
    _rows: tuple[Any, ...] | None
    direction: str | None

    def __new__(
        cls,
        values: Any,
        names: tuple[Any, ...],
        rows: tuple[Any, ...] | None = None,
        direction: str | None = None,
    ) -> Self:
        array = np.array(values, dtype=np.float64).view(cls)
        array._names, array._rows, array.direction = names, rows, direction
        return array

    def __array_finalize__(self, source: Any) -> None:
        self._names = self._rows = self.direction = None

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return np.asarray(self)[key]
        if self._names is not None and key in self._names:
            column = np.asarray(self)[..., self._names.index(key)]
            if column.ndim == 1 and self._rows is not None:
                return NamedArray(column, self._rows)
            return column if column.ndim else float(column)
        if self._names is not None and self._rows is not None and key in self._rows:
            return NamedArray(np.asarray(self)[self._rows.index(key)], self._names)
        raise KeyError(f"{key!r} is not one of {[*(self._names or ()), *(self._rows or ())]}")

    def __repr__(self) -> str:
        if self._names is None:
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
        return NamedArray, (np.asarray(self), self._names, self._rows, self.direction)
