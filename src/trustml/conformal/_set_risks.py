"""Risks of sets of labels or pixels that score at least a threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.conformal._risk import Risk


class Miscoverage(Risk):
    """Share of rows whose set of labels misses the true one.

    Outputs are scores (n, c), y the true columns (n,). The set of a threshold holds the labels
    that score at least this; -inf is the safest.

    Examples
    --------
    >>> scores = np.array([[0.7, 0.3], [0.4, 0.6]])
    >>> Miscoverage().losses(scores, np.array([0, 0]), 0.5)
    array([0., 1.])
    """

    name = "miscoverage"
    binary = True
    safest = -math.inf

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return 1 where the true label scores below the threshold, 0 elsewhere."""
        true = outputs[np.arange(len(outputs)), label_columns(outputs, y)]
        return 1.0 - at_least(true, parameter)

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return the sets, bool (n, c)."""
        return at_least(outputs, parameter)


class FalseNegativeRate(Risk):
    """Mean share of a row's true labels, or of a mask's pixels, that the set misses: 1 - recall.

    Outputs are scores (n, c) of labels or (n, h, w) of pixels, y zeros and ones of the same
    shape. The set of a threshold holds what scores at least this; -inf is the safest. A row
    without positives loses nothing.

    References
    ----------
    Bates, Angelopoulos, Lei, Malik and Jordan (2021), arXiv:2101.02703.

    Examples
    --------
    >>> FalseNegativeRate().losses(np.array([[0.9, 0.2, 0.6]]), np.array([[1, 1, 0]]), 0.5)
    array([0.5])
    """

    name = "false-negative-rate"
    safest = -math.inf

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return each row's share of positives that score below the threshold."""
        true = positives(outputs, y)
        return _share(true & ~at_least(outputs, parameter), true)

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return the sets, bool of the shape of the outputs."""
        return at_least(outputs, parameter)


class FalseDiscoveryRate(Risk):
    """Mean share of a row's set that is false: 1 - precision.

    Outputs are scores (n, c) of labels or (n, h, w) of pixels, y zeros and ones of the same
    shape. The set of a threshold holds what scores at least this; an empty set loses nothing, so
    +inf is the safest. It need not fall as the threshold grows: use it with `LearnThenTest`.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan and Lei (2021), arXiv:2110.01052.

    Examples
    --------
    >>> FalseDiscoveryRate().losses(np.array([[0.9, 0.2, 0.6]]), np.array([[1, 1, 0]]), 0.5)
    array([0.5])
    """

    name = "false-discovery-rate"
    safest = math.inf

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return each row's share of its set that is no positive."""
        true, found = positives(outputs, y), at_least(outputs, parameter)
        return _share(found & ~true, found)

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return the sets, bool of the shape of the outputs."""
        return at_least(outputs, parameter)


def at_least(scores: np.ndarray, threshold: Any) -> np.ndarray:
    """Return which scores reach the threshold, bool of their shape."""
    reached: np.ndarray = scores >= threshold
    return reached


def label_columns(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return true columns (n,) of scores (n, c).

    Returns
    -------
    int ndarray of shape (n,)

    Raises
    ------
    ValueError
        If the shapes are others, or a label is no column.
    """
    if outputs.ndim != 2 or y.shape != outputs.shape[:1]:
        raise ValueError(
            f"scores (n, c) and true columns (n,) expected, got {outputs.shape} and {y.shape}"
        )
    columns = y.astype(np.int64)
    if not ((columns == y) & (columns >= 0) & (columns < outputs.shape[1])).all():
        raise ValueError(
            f"y must hold columns 0..{outputs.shape[1] - 1} of the scores; wrap a model to use "
            "other labels"
        )
    return columns


def positives(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return y as bool of the shape of the scores.

    Returns
    -------
    bool ndarray

    Raises
    ------
    ValueError
        If the shape is another, or there is more than zeros and ones.
    """
    if outputs.ndim < 2 or y.shape != outputs.shape:
        raise ValueError(
            f"scores (n, ...) and zeros and ones of the same shape expected, got {outputs.shape} "
            f"and {y.shape}"
        )
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"y must hold zeros and ones, got {np.unique(y)[:5].tolist()}")
    return y.astype(bool)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Count of ``part`` over that of ``whole`` in each row; 0 of nothing is 0."""
    axes = tuple(range(1, whole.ndim))
    share: np.ndarray = part.sum(axis=axes) / np.maximum(whole.sum(axis=axes), 1)
    return share
