"""How far p-values without refits are from those of real training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trustml.core.validation import check_positive_int


@dataclass(frozen=True, eq=False)
class FullDiagnosis:
    """How far p-values without refits are from those of real training.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        The rows that were looked at.
    p_values, refitted : ndarray of shape (k, c), or (k,) for regression
        Without refits, and with them.
    """

    rows: np.ndarray
    p_values: np.ndarray
    refitted: np.ndarray

    @property
    def mean_gap(self) -> float:
        """Mean absolute difference of the p-values."""
        return float(np.abs(self.p_values - self.refitted).mean())

    @property
    def max_gap(self) -> float:
        """Largest absolute difference of the p-values."""
        return float(np.abs(self.p_values - self.refitted).max())

    def agreement(self, alpha: float = 0.1) -> float:
        """Return the share of p-values whose membership at alpha is the same."""
        return float(((self.p_values > alpha) == (self.refitted > alpha)).mean())


def few_rows(m: int, n_points: int) -> np.ndarray:
    """Return at most ``n_points`` of m rows, evenly spaced."""
    return np.unique(np.linspace(0, m - 1, check_positive_int(n_points, "n_points")).astype(int))
