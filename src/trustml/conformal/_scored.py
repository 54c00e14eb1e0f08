"""Rows to scores, a piece at a time: no second array of all rows and classes is ever held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trustml.conformal._score import Score
from trustml.core.batches import Data, as_data
from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.core.validation import check_finite, n_rows, take_rows, to_numpy
from trustml.model import Model

_PIECE = 1024  # rows at a time; a model's own larger batch size wins


@dataclass(frozen=True)
class Calibrated:
    """Calibration rows, scored.

    Attributes
    ----------
    score : Score
        What scored them, and will score new rows.
    seed : int
        Of the rows' uniforms.
    n_given : int
        Rows in all.
    kept : int ndarray of shape (n,)
        Positions of the rows that the score was not learnt from.
    labels : int ndarray of shape (n,)
        Their columns.
    scores : ndarray of shape (n,)
        Their scores at these.
    """

    score: Score
    seed: int
    n_given: int
    kept: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def of(self, X: Any) -> Any:
        """Return the kept ones of all the rows that were given."""
        if len(self.kept) == self.n_given:
            return X
        if isinstance(X, (Data, Dataset, DataLoader)):
            X = as_data(X).inputs
        if isinstance(X, dict):
            return {name: take_rows(part, self.kept) for name, part in X.items()}
        if isinstance(X, tuple):
            return tuple(take_rows(part, self.kept) for part in X)
        return take_rows(X, self.kept)


def calibrated(
    model: Model, score: Score, X: Any, y: Any, random_state: RandomState = None
) -> Calibrated:
    """Score the true labels of the calibration rows; the score learns first, from other rows.

    Returns
    -------
    Calibrated

    Raises
    ------
    ValueError
        If lengths differ, or the score gives NaN.
    """
    rng = numpy_generator(random_state)
    seed = int(rng.integers(2**62))
    n = length(X)
    # Places, not rows, are drawn: what is kept is exchangeable with new rows for every seed.
    aside = np.zeros(n, dtype=bool)
    aside[rng.permutation(n)[: int(np.ceil(score.share * n))]] = True
    labels: Tensor | None = None
    if score.share:
        if aside.all():
            raise ValueError(f"{n} calibration rows leave none beside the share {score.share}")
        parts = [
            seen[torch.from_numpy(aside[start : start + len(seen)])]
            for start, _, seen in observed(model, score, X)
        ]
        labels = _columns(model, y, n)
        score = score.learnt(model, torch.cat(parts), labels[torch.from_numpy(aside)])
    elif type(score).learnt is not Score.learnt:
        score = score.learnt(model, torch.empty(0, 0), torch.empty(0, dtype=torch.long))
    found = np.empty(n)
    for start, rows, seen in observed(model, score, X):
        if labels is None:  # a model may learn its classes in its first forward pass
            labels = _columns(model, y, n)
        mine = slice(start, start + len(seen))
        scores = score.of_labels(seen, uniforms_of(score, rows, len(seen), seed), labels[mine])
        found[mine] = _checked(scores)
    kept = np.flatnonzero(~aside)
    return Calibrated(score, seed, n, kept, to_numpy(labels)[kept], found[kept])


def all_scores(model: Model, score: Score, X: Any, seed: int) -> np.ndarray:
    """Return scores (n, c) in float64, from one pass of the model."""
    found = np.empty((0, 0))
    for start, rows, seen in observed(model, score, X):
        scores = _checked(score(seen, uniforms_of(score, rows, len(seen), seed)))
        if start == 0:
            found = np.empty((length(X), scores.shape[1]))
        found[start : start + len(scores)] = scores
    return found


def rows_of(X: Any) -> np.ndarray:
    """Return the rows of X as one array, whatever holds them: what the uniforms hash."""
    if isinstance(X, (Data, Dataset, DataLoader)):
        X = as_data(X).inputs
    if isinstance(X, dict):
        X = tuple(X.values())
    if isinstance(X, tuple):
        parts = [to_numpy(part) for part in X]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    return to_numpy(X)


def observed(model: Model, score: Score, X: Any) -> Iterator[tuple[int, Any, Tensor]]:
    """Yield (first row, rows, what the score reads of them, float64 on the CPU)."""
    start = 0
    size = max(_PIECE, model.batch_size if isinstance(model.batch_size, int) else 0)
    for rows in _pieces(X, size):
        seen = _read(model, score.reads, rows)
        if seen is None or seen.ndim != 2 or (score.reads == "probabilities" and seen.shape[1] < 2):
            shape = None if seen is None else tuple(seen.shape)
            what = "of at least 2 classes, (n, c)" if score.reads == "probabilities" else "(n, h)"
            raise ValueError(f"the model must give {score.reads} {what}, got {shape}")
        seen = seen.detach().cpu().double()
        # What has no module is checked by the model. One pass; the message costs more.
        if model.differentiable and not seen.sum().isfinite():
            check_finite(seen, f"the model's {score.reads}")
        yield start, rows, seen
        start += len(seen)


def _read(model: Model, what: str, rows: Any) -> Tensor | None:
    if what == "probabilities" and not model.differentiable:
        return model.proba_of(model.outputs(rows))  # without the logarithms of all of them
    found: Tensor | None = getattr(model.observe(rows), what)
    return found


def _pieces(X: Any, size: int) -> Iterator[Any]:
    data = as_data(X) if isinstance(X, (Data, Dataset, DataLoader)) else None
    n = length(X)
    for start in range(0, max(n, 1), size):
        stop = min(start + size, n)
        if data is not None:
            yield data.rows(start, stop).inputs
        elif size >= n:
            yield X
        elif isinstance(X, dict):
            yield {name: part[start:stop] for name, part in X.items()}
        elif isinstance(X, tuple):
            yield tuple(part[start:stop] for part in X)
        elif isinstance(X, (np.ndarray, Tensor, list)):
            yield X[start:stop]
        else:
            yield take_rows(X, np.arange(start, stop))


def length(X: Any) -> int:
    """Return the number of rows, whatever holds them."""
    if isinstance(X, (Data, Dataset, DataLoader)):
        return len(as_data(X))
    if isinstance(X, (dict, tuple)):
        return n_rows(next(iter(X.values() if isinstance(X, dict) else X)))
    return n_rows(X)


def _columns(model: Model, y: Any, n: int) -> Tensor:
    labels = model.targets(y).cpu()
    if labels.shape != (n,):
        raise ValueError(
            f"X_cal has {n} rows, y_cal has shape {tuple(labels.shape)}; give one label each"
        )
    return labels


def uniforms_of(score: Score, rows: Any, n: int, seed: int) -> Tensor:
    """Return one uniform number (n,) a row, a hash of seed and row; NaN if the score reads none."""
    if not score.randomized:
        return torch.full((n,), torch.nan, dtype=torch.float64)
    return torch.from_numpy(row_uniforms(rows_of(rows), seed))


def _checked(scores: Tensor) -> np.ndarray:
    if scores.isnan().any():
        raise ValueError("score returned NaN; a score must rank every class")
    return to_numpy(scores.double())
