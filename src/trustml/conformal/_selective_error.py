"""The risk of answering where one might have abstained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.conformal._risk import Risk
from trustml.conformal._set_risks import label_columns


class SelectiveError(Risk):
    """Share of wrong answers among the rows that are answered: 1 - selective accuracy.

    Outputs are scores (n, c), y the true columns (n,). A row is answered with its best label if
    that scores at least the threshold; +inf abstains always. The risk is conditional on an
    answer, and rows without one are no evidence: the safest threshold has none at all, so a
    fixed sequence must not start there.

    References
    ----------
    Angelopoulos and Bates (2021), A gentle introduction to conformal prediction and
    distribution-free uncertainty quantification, arXiv:2107.07511.

    Examples
    --------
    >>> scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> SelectiveError().losses(scores, np.array([0, 0, 0]), 0.7)
    array([ 0.,  1., nan])
    >>> SelectiveError().decide(scores, 0.7)
    array([ 0,  1, -1])
    """

    name = "selective-error"
    binary = True
    partial = True
    sequential = False
    safest = math.inf

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return 1 for a wrong answer, 0 for a right one, NaN for none."""
        wrong = outputs.argmax(axis=1) != label_columns(outputs, y)
        return np.where(outputs.max(axis=1) >= parameter, wrong, np.nan)

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return the column of the answer (n,), -1 for none."""
        return np.where(outputs.max(axis=1) >= parameter, outputs.argmax(axis=1), -1)
