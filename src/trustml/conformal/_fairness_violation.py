"""The risk that a threshold treats groups differently."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.conformal._error_rate import positive, selected
from trustml.conformal._risk import Risk
from trustml.core.validation import check_choice

_COUNTED = {"selection": (0, 1), "true-positive": (1,), "false-positive": (0,)}


class FairnessViolation(Risk):
    """Largest difference of a rate between two groups, for a threshold on a score.

    Outputs are scores (n,) of the positive class, or (n, 2) of both; y is zeros and ones; the
    groups are ``sensitive_features`` of ``fit``. A row is selected if it scores at least the
    threshold; +inf selects nobody, and so treats all alike. The difference is controlled for
    every pair of groups, in both directions, whatever the rates themselves are.

    Parameters
    ----------
    rate : {"selection", "true-positive", "false-positive"}
        Share of selected rows among all, the truly positive, or the truly negative ones:
        demographic parity, equal opportunity, predictive equality.

    References
    ----------
    Agarwal, Beygelzimer, Dudik, Langford and Wallach (2018), A reductions approach to fair
    classification, arXiv:1803.02453 (the definitions of the differences).

    Examples
    --------
    >>> risk = FairnessViolation("true-positive")
    >>> risk.losses(np.array([0.9, 0.2, 0.6]), np.array([1, 1, 0]), 0.5)
    array([ 1.,  0., nan])
    """

    name = "fairness-violation"
    binary = True
    partial = True
    compares_groups = True
    safest = math.inf

    def __init__(self, rate: str = "selection") -> None:
        check_choice(rate, "rate", tuple(_COUNTED))
        self.rate = rate

    def __repr__(self) -> str:
        return f"FairnessViolation({self.rate!r})"

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return 1 for a selected row, 0 for another, NaN for one that the rate leaves out."""
        counted = np.isin(positive(outputs, y), _COUNTED[self.rate])
        return np.where(counted, selected(outputs, parameter), np.nan)

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return who is selected, bool (n,)."""
        return selected(outputs, parameter)
