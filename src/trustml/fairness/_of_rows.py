"""A metric as a function of which rows it is taken over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RowMetric = Callable[[np.ndarray], float]  # row indices -> value


@dataclass(frozen=True, eq=False)
class OfRows:
    """A function of columns as one of row indices, that returns a float.

    ``ends`` is the range of the single rows' values, where it is known and the metric their mean.
    """

    name: str
    metric: Callable[..., Any]
    columns: tuple[np.ndarray, ...]
    ends: tuple[float, float] | None = None

    def __call__(self, rows: np.ndarray) -> float:
        """Return the metric of some rows."""
        value = np.asarray(self.metric(*(column[rows] for column in self.columns)))
        if value.size != 1:
            raise ValueError(
                f"metric {self.name!r} must return one number, got shape {value.shape}"
            )
        return float(value.reshape(()))
