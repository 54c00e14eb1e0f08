"""Weighted calibration scores: thresholds and p-values of new rows, with one warning a question."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.conformal._weights import Weights, check_effective_size
from trustml.evidence import pvalues, quantile
from trustml.warnings import CoverageWarning


class WeightedScores:
    """Calibration scores whose rows count by weights, beside a new row that has its own.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN; higher = stranger.
    weights : Weights
        Fitted on the same rows.
    """

    def __init__(self, scores: np.ndarray, weights: Weights) -> None:
        self.scores, self.weights = scores, weights
        check_effective_size(weights, len(scores), stacklevel=4)

    def limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        """Return thresholds (n, k, a) of new rows; k is 1, or c where weights depend on the class.

        Returns
        -------
        ndarray of shape (n, k, a)
        """
        found = []
        with warnings.catch_warnings():
            # Said once below, for all blocks.
            warnings.simplefilter("ignore", CoverageWarning)
            for _, weights, own in self._blocks(X, n):
                limits = quantile(self.scores, alphas, weights, own.ravel())
                found.append(limits.reshape(*own.shape, len(alphas)))
        limits = np.concatenate(found)
        limits = np.broadcast_to(limits, (n, *limits.shape[1:]))  # one row stands for all
        heavy = np.isinf(limits).any(axis=(1, 2))
        if heavy.any():
            warnings.warn(
                f"{heavy.sum()} of {len(heavy)} rows hold more than {float(min(alphas)):g} of all "
                f"weight, beside {len(self.scores)} calibration rows: their answers are "
                "everything, the full label set or the whole line. Calibrate on more rows like "
                "them or raise alpha.",
                CoverageWarning,
                stacklevel=4,
            )
        return limits

    def p_values(self, X: Any, scores: np.ndarray) -> np.ndarray:
        """Return p-values of scores (m, c): the share of weight that scores at least as much."""
        found = np.empty(scores.shape)
        for rows, weights, own in self._blocks(X, len(scores)):
            own = np.broadcast_to(own, found[rows].shape)
            found[rows] = pvalues(self.scores, scores[rows], weights=weights, test_weights=own)
        return found

    def _blocks(self, X: Any, n: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        for rows, weights, own in self.weights.blocks(X):
            asked = len(range(*rows.indices(n)))
            if own.ndim != 2 or len(own) not in {1, asked}:
                raise ValueError(
                    f"{type(self.weights).__name__} gave own weights of shape {own.shape} for "
                    f"{asked} rows; give ({asked}, 1), ({asked}, c), or one row for all"
                )
            yield rows, weights, own
