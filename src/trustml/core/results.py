"""What every result object can do: become a table, a piece of HTML, a figure."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

import numpy as np

from trustml.core.validation import to_numpy
from trustml.errors import MissingExtraError

_HTML_ROWS = 20
_FRAMES = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "table"}


class Result(ABC):
    """Mixin of the frozen dataclasses that methods return.

    A subclass says what its columns are; the rest follows.
    """

    @abstractmethod
    def _columns(self) -> dict[str, Any]:
        """Return the columns of the table: name -> array of shape (n,)."""

    def to_frame(self) -> Any:
        """Return the result as a data frame.

        Returns
        -------
        pandas.DataFrame, polars.DataFrame or pyarrow.Table
            The first of these that is installed.

        Raises
        ------
        MissingExtraError
            If none is installed.
        """
        columns = self._table()
        for package, constructor in _FRAMES.items():
            try:
                library = import_module(package)
            except ImportError:
                continue
            return getattr(library, constructor)(columns)
        raise MissingExtraError(
            "to_frame() needs pandas, polars or pyarrow, and none is installed; install one with "
            "pip install 'trustml[frames]'"
        )

    def plot(self, **kwargs: Any) -> Any:
        """Draw the result; see ``trustml.plotting.plot``.

        Parameters
        ----------
        **kwargs : object
            Passed on; ``ax=`` draws into given axes.

        Returns
        -------
        matplotlib.axes.Axes
        """
        return import_module("trustml.plotting").plot(self, **kwargs)

    def _table(self) -> dict[str, np.ndarray]:
        columns = {name: np.atleast_1d(to_numpy(c)) for name, c in self._columns().items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1 or any(column.ndim != 1 for column in columns.values()):
            shapes = {name: column.shape for name, column in columns.items()}
            raise ValueError(f"columns of {type(self).__name__} must be (n,) arrays, got {shapes}")
        return columns

    def _repr_html_(self) -> str:
        columns = self._table()
        n = len(next(iter(columns.values()))) if columns else 0
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in columns)
        rows = (
            "<tr>" + "".join(f"<td>{_cell(c[i])}</td>" for c in columns.values()) + "</tr>"
            for i in range(min(n, _HTML_ROWS))
        )
        left = f"<p>{n - _HTML_ROWS} more rows: to_frame()</p>" if n > _HTML_ROWS else ""
        return (
            f"<table><caption>{html.escape(type(self).__name__)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{left}"
        )


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
    return html.escape(text)
