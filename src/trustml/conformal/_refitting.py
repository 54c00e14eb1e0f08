"""Real training with one row more: the ground truth of full conformal prediction."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Data
from trustml.core.validation import frame_columns, take_rows, to_numpy
from trustml.model import Model


class Enlarged:
    """The training rows of a model and one new row, to train on with each label.

    Parameters
    ----------
    model : Model
        With its training data, and a way to train it.
    X : array of shape (m, ...)
        New rows, of the kind of the training rows.
    row : int
        Which of them.

    Attributes
    ----------
    n : int
        Training rows; the new one is row n.

    Raises
    ------
    TypeError
        If there is no way to train the model, or the rows are no arrays.
    """

    def __init__(self, model: Model, X: Any, row: int) -> None:
        if model.refit is None:
            raise TypeError(
                f"{model!r} cannot be trained anew: pass train_fn=, a callable (X, y) -> fitted "
                "estimator, to wrap"
            )
        self.model, self.training = model, model._training
        self.n = len(self.training)  # type: ignore[arg-type]
        self.X = joined(self.training.X, _row(X, row))  # type: ignore[union-attr]

    def with_target(self, target: Any, without: int | None = None) -> Model:
        """Return the model trained on all rows, or on all but one.

        Parameters
        ----------
        target : scalar
            The new row's label or value.
        without : int or None
            A training row that is left out; n, the new row, makes it a plain refit.

        Returns
        -------
        Model
        """
        kept = np.delete(np.arange(self.n + 1), [] if without is None else [without])
        y = self.targets(target)
        refit: Any = self.model.refit
        return refit(_rows(self.X, kept), take_rows(y, kept), self.training.n, None)  # type: ignore[union-attr, no-any-return]

    def targets(self, target: Any) -> Any:
        """Return the training targets and the new one, in the user's kind where it is a tensor."""
        y = self.training.y  # type: ignore[union-attr]
        if isinstance(y, Tensor):
            return torch.cat([y, torch.as_tensor(target).to(y).reshape(1, *y.shape[1:])])
        labels = self.training.labels  # type: ignore[union-attr]
        return np.concatenate([labels, np.reshape(target, (1, *labels.shape[1:]))])

    def row(self, i: int) -> Any:
        """Return one of the n + 1 rows."""
        return _row(self.X, i)


def joined(first: Any, second: Any) -> Any:
    """Return the rows of both, in the kind of the first.

    Returns
    -------
    array, tensor, frame, list, or dict or tuple of them

    Raises
    ------
    TypeError
        If they are of different kinds, or have no rows to join.
    """
    if isinstance(first, (Dataset, DataLoader, Data)):
        raise TypeError("refits with one more row need train=(X, y) of arrays or frames")
    if isinstance(first, dict):
        return {name: joined(part, second[name]) for name, part in first.items()}
    if isinstance(first, tuple):
        return tuple(joined(*parts) for parts in zip(first, second, strict=True))
    if isinstance(first, Tensor):
        return torch.cat([first, torch.as_tensor(second).to(first)])
    if frame_columns(first) is not None:
        if frame_columns(second) is None:
            raise TypeError(f"train is a {type(first).__name__}; give new rows as one, too")
        return nw.to_native(nw.concat([nw.from_native(first), nw.from_native(second)]))
    return np.concatenate([to_numpy(first), to_numpy(second)])


def _row(X: Any, i: int) -> Any:
    return _rows(X, np.array([i]))


def _rows(X: Any, indices: np.ndarray) -> Any:
    if isinstance(X, dict):
        return {name: take_rows(part, indices) for name, part in X.items()}
    if isinstance(X, tuple):
        return tuple(take_rows(part, indices) for part in X)
    if isinstance(X, (Dataset, DataLoader, Data)):
        raise TypeError("refits with one more row need X as an array or frame")
    return take_rows(X, indices)
