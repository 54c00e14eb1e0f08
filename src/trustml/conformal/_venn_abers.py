"""Inductive Venn-Abers predictors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.conformal._scaling import Calibrator, margins, normalised
from trustml.core.validation import restore


class VennAbers(Calibrator):
    """Pairs of probabilities of which one is perfectly calibrated, and their merger.

    A new row's label is tried as 0 and as 1: isotonic regression of the calibration labels on the
    scores, with the row added, gives p0 and p1. For exchangeable rows the one that belongs to
    the true label is calibrated exactly, at any sample size, and p0 < p1; their distance shows how
    little is known. The merger p1 / (1 - p0 + p1) is what `predict_proba` returns.

    All n + 1 answers are found in one pass over the sorted scores. Both are step functions of the
    new score, of some hundred steps for 100 000 rows; new rows only look them up, on their own
    device. More than two classes are calibrated one against the rest and normalised.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier; scores are the log-odds of each class.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    tables_ : list of (scores, p0, scores, p1)
        For each class the calibration scores at which p0 rises and its values between them, of
        which there is one more; the same of p1.

    References
    ----------
    Vovk, Petej and Fedorova (2015), Large-scale probabilistic predictors with and without
    guarantees of validity, arXiv:1511.00213. Manokhin (2017), Multi-class probabilistic
    classification using inductive and cross Venn-Abers predictors.

    Examples
    --------
    >>> import trustml
    >>> p = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]
    >>> cal = VennAbers(trustml.precomputed("probabilities")).fit(p, [0, 1, 0, 1])
    >>> cal.predict_bounds([[0.5, 0.5]])[0, 1].round(3)
    array([0.333, 0.667])
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict_bounds(self, X: Any) -> Any:
        """Return p0 and p1 of every class.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.

        Returns
        -------
        array of shape (n, c, 2)
            0 <= p0 < p1 <= 1; columns in the order of ``classes_``.
        """
        return restore(self._bounds(self._logits(X)), X)

    def _learn(self, logits: Tensor, index: Tensor) -> None:
        self.tables_ = venn_abers_tables(logits, index)

    def _calibrated(self, logits: Tensor) -> Tensor:
        low, high = self._bounds(logits).unbind(dim=2)
        return normalised(high / (1 - low + high))

    def _bounds(self, logits: Tensor) -> Tensor:
        return venn_abers_bounds(logits, self.tables_)


Table = tuple[Tensor, ...]


def venn_abers_tables(logits: Tensor, index: Tensor) -> list[Table]:
    """Return each class's steps from logits (n, c) and columns (n,) of the labels."""
    scores, labels = margins(logits), index.cpu().numpy()
    return [
        _table(column.cpu().numpy(), labels == k, column.device)
        for k, column in enumerate(scores.T)
    ]


def venn_abers_bounds(logits: Tensor, tables: list[Table]) -> Tensor:
    """Return p0 and p1 (n, c, 2) of logits (n, c)."""
    columns = zip(margins(logits).T, tables, strict=True)
    return torch.stack([_looked_up(table, column.contiguous()) for column, table in columns], dim=1)


def _table(scores: np.ndarray, labels: np.ndarray, device: torch.device) -> Table:
    """Return the steps of p0 and of p1: scores, values, scores, values."""
    known, code = np.unique(scores, return_inverse=True)
    size = np.bincount(code)
    ones = np.bincount(code, weights=labels).astype(np.int64)
    high = [*with_a_one(size, ones), 1.0]
    # Adding a 0 is adding a 1 to the problem turned round.
    low = [0.0, *(1 - p for p in with_a_one(size[::-1], (size - ones)[::-1])[::-1])]
    columns = (*_steps(known, np.array(low)), *_steps(known, np.array(high)))
    return tuple(torch.from_numpy(part).to(device) for part in columns)


def _steps(known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (k,) where values between them change, and the values (k + 1,)."""
    rises = np.flatnonzero(np.diff(values))
    return known[rises], values[np.append(rises, len(known))]


def _looked_up(table: Table, scores: Tensor) -> Tensor:
    """Return p0 and p1 (n, 2) of new scores (n,)."""
    low_at, low, high_at, high = (part.to(scores.device) for part in table)
    # Between two known scores a 0 joins the one below it, and a 1 the one above it.
    p0 = low[torch.searchsorted(low_at, scores, right=True)]
    return torch.stack([p0, high[torch.searchsorted(high_at, scores)]], dim=1)


def with_a_one(size: np.ndarray, ones: np.ndarray) -> list[float]:
    """Return the isotonic fit at each group when one more label 1 is put into it.

    In the cumulative diagram the new label is a step (1, 1) that wanders from left to right: what
    it has passed moves down and left by one. The fit is the slope, at the step, of the greatest
    convex minorant, whose corners to the right are a stack.

    Parameters
    ----------
    size, ones : int ndarrays of shape (k,)
        Rows, and rows of label 1, of the groups in the order of their scores.

    Returns
    -------
    list of float
        (k,)
    """
    x, y = np.cumsum(size).tolist(), np.cumsum(ones).tolist()
    corners: list[tuple[int, int]] = []
    for point in [*zip(x[::-1], y[::-1], strict=True), (0, 0), (-1, -1)]:
        _push(corners, point)
    fit = []
    for right, up in zip(x, y, strict=True):
        (x0, y0), (x1, y1) = corners[-1], corners[-2]
        fit.append((y1 - y0) / (x1 - x0))
        passed = (right - 1, up - 1)
        if (passed[1] - y0) * (x1 - x0) < (y1 - y0) * (passed[0] - x0):
            corners.pop()
            _push(corners, passed)
    return fit


def _push(corners: list[tuple[int, int]], point: tuple[int, int]) -> None:
    """Put a point left of all others onto the stack; corners on or above its line go."""
    x, y = point
    while len(corners) > 1:
        (x1, y1), (x2, y2) = corners[-1], corners[-2]
        if (y1 - y) * (x2 - x) < (y2 - y) * (x1 - x):
            break
        corners.pop()
    corners.append(point)
