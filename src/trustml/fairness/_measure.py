"""A measure of unfairness with who is responsible for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trustml.core.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class FairnessMeasure(Result):
    """A number, who is responsible for it in words, and a table of the worst.

    ``float(measure)`` is the number; it compares (``measure < 0.1``) and formats as one.

    Attributes
    ----------
    name : str
        The measure.
    value : float
        Its value; the function that returned it says the unit and the range.
    words : str
        Which groups or rows are responsible.
    table : dict of str to numpy.ndarray
        Columns of equal length: names, numbers that are drawn, and more. The worst is first, except
        where the rows are groups.
    rows : numpy.ndarray of int
        Indices of the rows that are responsible; empty where groups are.
    p_value : float or None
        Chance of a value at least as large if there were no unfairness, where it was asked for.
    """

    name: str
    value: float
    words: str
    table: dict[str, np.ndarray]
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    p_value: float | None = None

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __lt__(self, other: Any) -> bool:
        return self.value < float(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= float(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > float(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= float(other)

    def _columns(self) -> dict[str, Any]:
        return self.table

    def _title(self) -> str:
        chance = "" if self.p_value is None else f" (p = {self.p_value:.3g})"
        return f"{self.name} {self.value:.4g}{chance}: {self.words}"
