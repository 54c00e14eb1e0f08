"""What every result object can do: become a table, a piece of HTML, a figure."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from trustml.core.validation import to_numpy
from trustml.errors import MissingExtraError

_HTML_ROWS = 20
_TEXT_ROWS = 10
_FRAMES = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "table"}


class Result(ABC):
    """Mixin of the frozen dataclasses that methods return.

    A subclass says what its columns are; the rest follows. Dataclasses that are declared with
    ``repr=False`` print as their table.
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
        columns = _aligned(self, self._columns())
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

    def plot(self, ax: Any = None, **settings: Any) -> Any:
        """Draw the result; see ``trustml.plotting.plot``.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            Where to draw; ``plt.subplots()[1]`` for a figure that ``plt.show()`` shows. None makes
            a figure of its own outside pyplot (in a notebook inside, so that it is shown).
        **settings : object
            Passed on; which there are depends on the kind of result.

        Returns
        -------
        matplotlib.axes.Axes
            ``.figure.savefig("out.png")`` saves it.
        """
        return import_module("trustml.plotting").plot(self, ax=ax, **settings)

    def _title(self) -> str:
        """Return what the table is of, in a line."""
        return type(self).__name__

    def _shown(self) -> dict[str, Any]:
        """Return the columns that are printed: those of ``to_frame`` unless there is more."""
        return self._columns()

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(_aligned(self, self._shown()))}"

    def _repr_html_(self) -> str:
        columns = _aligned(self, self._shown())
        n = len(next(iter(columns.values()))) if columns else 0
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in columns)
        rows = (
            "<tr>" + "".join(f"<td>{_cell(c[i])}</td>" for c in columns.values()) + "</tr>"
            for i in range(min(n, _HTML_ROWS))
        )
        left = f"<p>{n - _HTML_ROWS} more rows: to_frame()</p>" if n > _HTML_ROWS else ""
        return (
            f"<table><caption>{html.escape(self._title())}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{left}"
        )


def text_table(columns: Mapping[str, np.ndarray], max_rows: int = _TEXT_ROWS) -> str:
    """Return named columns (n,) as aligned text; of many rows the first ones.

    Parameters
    ----------
    columns : dict of str to array of shape (n,)
        In the order in which they are shown.
    max_rows : int
        Rows shown.

    Returns
    -------
    str
        Numbers to the right, with four digits.
    """
    n = len(next(iter(columns.values()))) if columns else 0
    parts = []
    for name, column in columns.items():
        cells = [str(name), *(_text(value) for value in column[:max_rows])]
        width = max(len(cell) for cell in cells)
        number = column.dtype.kind in "iuf"
        parts.append([cell.rjust(width) if number else cell.ljust(width) for cell in cells])
    lines = ["  ".join(row).rstrip() for row in zip(*parts, strict=True)]
    if n > max_rows:
        lines.append(f"... {n - max_rows} more rows: to_frame()")
    return "\n".join(lines)


def _aligned(result: Result, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Check that columns are vectors of one length."""
    columns = {name: np.atleast_1d(to_numpy(column)) for name, column in given.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1 or any(column.ndim != 1 for column in columns.values()):
        shapes = {name: column.shape for name, column in columns.items()}
        raise ValueError(f"columns of {type(result).__name__} must be (n,) arrays, got {shapes}")
    return columns


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _cell(value: Any) -> str:
    return html.escape(_text(value))
