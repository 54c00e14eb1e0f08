"""One column a detector: what a suite returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trustml.core.results import Result


@dataclass(frozen=True, eq=False)
class DetectorTable(Result):
    """What each detector says of each row.

    Attributes
    ----------
    values : array or tensor of shape (n, k)
        Scores (higher = more out of distribution), p-values or verdicts.
    columns : tuple of str
        Names of the k detectors.
    quantity : {"score", "p-value", "alarm", "discovery"}
        What the values are.

    Examples
    --------
    >>> import numpy as np
    >>> table = DetectorTable(np.array([[0.1, 3.0]]), ("Msp", "Knn"), "score")
    >>> table["Knn"]
    array([3.])
    """

    values: Any
    columns: tuple[str, ...]
    quantity: str = "score"

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k)."""
        return len(self.values), len(self.columns)

    def __len__(self) -> int:
        """Return n, the number of rows."""
        return len(self.values)

    def __repr__(self) -> str:
        """Return the quantity, the rows and the columns."""
        return f"DetectorTable({self.quantity}, {len(self)} rows: {', '.join(self.columns)})"

    def __getitem__(self, detector: str) -> Any:
        """Return the column of one detector, shape (n,).

        Parameters
        ----------
        detector : str
            One of ``columns``.

        Returns
        -------
        array or tensor of shape (n,)

        Raises
        ------
        KeyError
            If there is no such column.
        """
        if detector not in self.columns:
            raise KeyError(f"no detector {detector!r}; the columns are {', '.join(self.columns)}")
        return self.values[:, self.columns.index(detector)]

    def _columns(self) -> dict[str, Any]:
        return {name: self[name] for name in self.columns}
