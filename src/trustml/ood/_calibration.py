"""From scores to verdicts: conformal p-values against in-distribution scores."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trustml.core.validation import check_same_length, to_numpy
from trustml.evidence import (
    benjamini_hochberg,
    benjamini_yekutieli,
    conformal_rank,
    exact_alpha,
    pvalues,
    quantile,
)
from trustml.model import Model
from trustml.warnings import CoverageWarning

Ratio = Callable[[Any], Any]
"""Density of the rows to judge over that of the calibration rows, on any scale: X -> (n,)."""


@dataclass(frozen=True)
class Calibration:
    """Scores of in-distribution rows that the detector was not fitted on.

    Attributes
    ----------
    scores : array of shape (n,)
        In any order; higher = more out of distribution.
    classes : integer array of shape (n,) or None
        Their classes. A row's p-value is then the largest of those against each class, so that
        P(p <= t) <= t within every class.
    weights : array of shape (n,) or None
        What each counts, where the rows to judge are distributed otherwise.
    ratio : callable X -> (n,) or None
        What gave the weights, and gives those of the rows to judge.
    by_layer : array of shape (n, l) or None
        The scores of each layer, of detectors whose score is a sum over layers.
    """

    scores: NDArray[np.float64]
    classes: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    ratio: Ratio | None = None
    by_layer: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        scores: NDArray[np.float64],
        model: Model,
        X: Any,
        y: Any = None,
        ratio: Ratio | None = None,
    ) -> Self:
        """Return the calibration by the scores of X, its labels and weights.

        Parameters
        ----------
        scores : array of shape (n,)
            Of the rows of X.
        model : Model
            What knows the labels.
        X : array, tensor, frame, Dataset or DataLoader of n rows
            The calibration rows.
        y : array of shape (n,) or None
            Their labels.
        ratio : callable X -> (n,) or None
            Gives the weights.

        Returns
        -------
        Calibration

        Raises
        ------
        ValueError
            If labels are given and the model has no classes, or lengths differ.
        TypeError
            If ``ratio`` cannot be called.
        """
        classes = None
        if y is not None:
            if model.task != "classification":
                raise ValueError(
                    f"y_cal makes p-values class by class, and {model!r} is no classifier; leave "
                    "it out"
                )
            classes = to_numpy(model.targets(y))
            check_same_length(X_cal=scores, y_cal=classes)
        if ratio is None:
            return cls(scores, classes)
        if not callable(ratio):
            raise TypeError(
                "weights must be a function X -> (n,), which also weighs the rows to judge, got "
                f"{type(ratio).__name__}"
            )
        return cls(scores, classes, _weighed(ratio, X, len(scores)), ratio)

    def weigh(self, X: Any, n: int) -> NDArray[np.float64] | None:
        """Return the weights (n,) of rows to judge; None where none were asked for."""
        return None if self.ratio is None else _weighed(self.ratio, X, n)

    def p_values(
        self, scores: NDArray[np.float64], weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the conformal p-values, ties counted against an alarm; ``weights`` of new rows."""
        found = [
            pvalues(own, scores, weights=weight, test_weights=weights)
            for own, weight in self._groups()
        ]
        return np.asarray(np.max(found, axis=0))

    def alarm(
        self,
        scores: NDArray[np.float64],
        alpha: float,
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.bool_]:
        """Return which scores have p <= alpha, with the exact rational rank."""
        if self.weights is not None:
            return np.asarray(self.p_values(scores, weights) <= float(exact_alpha(alpha)))
        # score > quantile is the same event as p <= alpha, free of the rounding of p.
        return np.asarray(scores > max(_threshold(own, alpha) for own, _ in self._groups()))

    def discoveries(
        self,
        scores: NDArray[np.float64],
        q: float,
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.bool_]:
        """Return the rejections at false discovery rate ``q``."""
        # Rows that share calibration rows depend positively, as Benjamini and Hochberg ask; with
        # weights they need not.
        procedure = benjamini_hochberg if self.weights is None else benjamini_yekutieli
        return np.asarray(procedure(self.p_values(scores, weights), q))

    def _groups(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
        """Yield the scores and weights of each class; of all rows, if classes are not known."""
        if self.classes is None:
            yield self.scores, self.weights
            return
        for k in np.unique(self.classes):
            own = self.classes == k
            yield self.scores[own], None if self.weights is None else self.weights[own]


def _threshold(own: NDArray[np.float64], alpha: float) -> float:
    """Return what a score must exceed for an alarm; infinity where no score can give one."""
    if conformal_rank(len(own), alpha) <= len(own):
        return float(quantile(own, alpha))
    need = math.ceil(1 / exact_alpha(alpha)) - 1
    warnings.warn(
        f"{len(own)} calibration rows (of a class, if calibrated by class) never raise an alarm "
        f"at a false-alarm rate of {alpha:g}; at least {need} are needed",
        CoverageWarning,
        stacklevel=4,
    )
    return math.inf


def _weighed(ratio: Ratio, X: Any, n: int) -> NDArray[np.float64]:
    weights = np.asarray(to_numpy(ratio(X)), dtype=np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"weights must give one finite number of at least 0 a row, shape ({n},), got shape "
            f"{weights.shape}"
        )
    return weights
