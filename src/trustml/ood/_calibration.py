"""From scores to verdicts: conformal p-values against in-distribution scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trustml.evidence import benjamini_hochberg, pvalues, quantile


@dataclass(frozen=True)
class Calibration:
    """Scores of in-distribution rows that the detector was not fitted on.

    Attributes
    ----------
    scores : array of shape (n,)
        In any order; higher = more out of distribution.
    """

    scores: NDArray[np.float64]

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the conformal p-values, ties counted against an alarm."""
        return np.asarray(pvalues(self.scores, scores))

    def alarm(self, scores: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
        """Return which scores have p <= alpha, with the exact rational rank."""
        # score > quantile is the same event as p <= alpha, free of the rounding of p.
        return np.asarray(scores > quantile(self.scores, alpha))

    def discoveries(self, scores: NDArray[np.float64], q: float) -> NDArray[np.bool_]:
        """Return the Benjamini-Hochberg rejections at false discovery rate ``q``."""
        return np.asarray(benjamini_hochberg(self.p_values(scores), q))
