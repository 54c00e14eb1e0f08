"""The training data of a model, raw and encoded, and training anew on part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Data, as_data
from trustml.core.validation import check_same_length, take_rows
from trustml.model.intake import Intake, dense
from trustml.model.labels import raw_labels

_LABEL_ROWS = 512  # the inputs of so many rows are held while labels are collected


@dataclass(frozen=True, eq=False)
class Training:
    """What the user gave as ``train``.

    Attributes
    ----------
    X : object
        Inputs as given; a Dataset or DataLoader holds its targets too.
    y : object or None
        Targets as given.
    labels : ndarray of shape (rows, ...)
        Targets as an array.
    n : int
        The n of the mean loss; more than the rows if some were unlearned.
    """

    X: Any
    y: Any
    labels: np.ndarray[Any, Any]
    n: int

    @classmethod
    def of(cls, train: Any) -> Training:
        """Check and take what was given.

        Parameters
        ----------
        train : (X, y), Dataset, DataLoader or Data
            Inputs and targets.

        Returns
        -------
        Training

        Raises
        ------
        TypeError
            If it is not (X, y), a Dataset or a DataLoader.
        ValueError
            If it has no targets, or lengths differ.
        """
        if isinstance(train, (Dataset, DataLoader, Data)):
            parts = [batch.targets for batch in as_data(train).batches(_LABEL_ROWS)]
            targets = [part for part in parts if part is not None]
            if not targets:
                raise ValueError("train has inputs but no targets; its items must be (x, y)")
            labels = raw_labels(torch.cat(targets))
            return cls(train, None, labels, len(labels))
        if not isinstance(train, (tuple, list)) or len(train) != 2:
            given = type(train).__name__
            size = f" of {len(train)}" if isinstance(train, (tuple, list)) else ""
            raise TypeError(
                f"train must be (X, y), a Dataset or an unshuffled DataLoader, got {given}{size}"
            )
        X, y = dense(train[0]), train[1]
        if isinstance(X, (Dataset, DataLoader)):
            as_data(X)  # refuses shuffling
            return cls(X, y, raw_labels(y), len(y))
        labels = raw_labels(y)
        if not isinstance(X, (dict, tuple)):
            check_same_length(X=X, y=labels)
        return cls(X, y, labels, len(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, intake: Intake, targets: Callable[[Any], Tensor]) -> Data:
        """Return inputs and targets as the module and its loss take them.

        Parameters
        ----------
        intake : Intake
            The model's way in.
        targets : callable
            Targets as the user writes them -> tensor.

        Returns
        -------
        Data
            Read when needed for a Dataset, in memory otherwise.
        """
        if isinstance(self.X, (Dataset, DataLoader)):
            return as_data(self.X, self.labels, prepare=intake.inputs, encode=targets)
        rows = self.X.inputs if isinstance(self.X, Data) else self.X
        return as_data(intake.prepared(rows), targets(self.labels), device=intake.device)

    def positions(self, indices: Any) -> np.ndarray[Any, Any]:
        """Return row numbers from numbers or a mask.

        Parameters
        ----------
        indices : array-like
            Non-negative row numbers, or booleans (n,).

        Returns
        -------
        ndarray of int

        Raises
        ------
        ValueError
            If one is outside the data, or none is left.
        """
        chosen = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(f"a mask of shape {chosen.shape} for {len(self)} training rows")
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(chosen) == 0:
            raise ValueError(
                f"indices must be row numbers (at least one) or a mask, got {chosen.dtype} of "
                f"shape {chosen.shape}"
            )
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(
                f"indices must be in [0, {len(self)}), got {chosen.min()} to {chosen.max()}"
            )
        return chosen

    def subset(self, positions: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        """Return (X, y) of some rows, in the user's own kinds."""
        if isinstance(self.X, (Dataset, DataLoader, Data)):
            chosen = as_data(self.X).subset(positions)
            y = chosen.targets if self.y is None else take_rows(self.y, positions)
            return chosen.inputs, y
        if isinstance(self.X, dict):
            return {k: take_rows(v, positions) for k, v in self.X.items()}, self._y(positions)
        if isinstance(self.X, tuple):
            return tuple(take_rows(part, positions) for part in self.X), self._y(positions)
        return take_rows(self.X, positions), self._y(positions)

    def without(self, indices: Any) -> Training:
        """Return the other rows; n stays, as the objective J - Σ ℓ_i/n has it."""
        kept = np.setdiff1d(np.arange(len(self)), self.positions(indices))
        X, y = self.subset(self.positions(kept))
        return Training(X, y, self.labels[kept], self.n)

    def _y(self, positions: np.ndarray[Any, Any]) -> Any:
        return take_rows(self.y, positions)
