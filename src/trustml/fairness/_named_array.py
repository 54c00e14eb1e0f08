"""Arrays whose axes also answer to names."""

from __future__ import annotations

from typing import Any, Self

import numpy as np


class NamedArray(np.ndarray):
    """A numpy array whose last axis can be indexed by name: ``values["selection_rate"]``.

    Everything else is numpy's; results of arithmetic and slices are without names.
    """

    _names: tuple[Any, ...] | None
    _rows: tuple[Any, ...] | None

    def __new__(
        cls, values: Any, names: tuple[Any, ...], rows: tuple[Any, ...] | None = None
    ) -> Self:
        array = np.array(values, dtype=np.float64).view(cls)
        array._names, array._rows = names, rows
        return array

    def __array_finalize__(self, source: Any) -> None:
        self._names = self._rows = None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if self._names is None or key not in self._names:
                raise KeyError(f"{key!r} is not one of {list(self._names or ())}")
            column = np.asarray(self)[..., self._names.index(key)]
            if column.ndim == 1 and self._rows is not None:
                return NamedArray(column, self._rows)
            return column if column.ndim else float(column)
        return np.asarray(self)[key]

    def __reduce__(self) -> Any:
        return NamedArray, (np.asarray(self), self._names, self._rows)
