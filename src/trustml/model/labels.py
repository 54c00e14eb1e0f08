"""The user's labels to class indices and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.validation import to_numpy


class Labels:
    """The classes in column order.

    Parameters
    ----------
    classes : ndarray of shape (c,)
        Distinct labels: numbers, booleans or strings.
    names : list of str or None
        Names of the classes; they are taken for labels too.

    Raises
    ------
    ValueError
        If a label occurs twice.
    """

    def __init__(self, classes: NDArray[Any], names: list[str] | None = None) -> None:
        self.classes = np.asarray(classes)
        plain = raw_labels(self.classes)
        self._order = np.argsort(plain, kind="stable")
        self._sorted = plain[self._order]
        if len(np.unique(plain)) != len(plain):
            raise ValueError(f"classes must be distinct, got {plain.tolist()}")
        self._is_text = plain.dtype.kind == "U"
        self._named = None
        if names is not None and not self._is_text and len(set(names)) == len(names):
            self._named = Labels(np.array(names))

    @classmethod
    def of(cls, y: Any) -> Labels:
        """Take the classes from labels alone; non-negative integers are column numbers."""
        found = np.unique(raw_labels(y))
        columns = found.dtype.kind in "iu" and int(found[0]) >= 0
        return cls(np.arange(int(found[-1]) + 1) if columns else found)

    def __len__(self) -> int:
        return len(self.classes)

    def encode(self, y: Any, device: torch.device | None = None) -> Tensor:
        """Return class indices, long, shape (n,).

        Parameters
        ----------
        y : array-like of shape (n,) or (n, 1)
            Labels as the user writes them.
        device : torch.device or None
            Where the indices go.

        Returns
        -------
        Tensor

        Raises
        ------
        ValueError
            If a label is not among the classes, or the shape is wrong.
        """
        given = raw_labels(y)
        if given.ndim == 2 and given.shape[1] == 1:
            given = given[:, 0]
        if given.ndim != 1:
            raise ValueError(
                f"class labels must have shape (n,), got {given.shape}; "
                "for several labels a row wrap the model with task='multilabel'"
            )
        if self._named is not None and given.dtype.kind == "U":
            return self._named.encode(given, device)
        known = np.zeros(len(given), dtype=bool)
        if (given.dtype.kind == "U") == self._is_text:
            place = np.searchsorted(self._sorted, given).clip(max=len(self._sorted) - 1)
            known = self._sorted[place] == given
        if not known.all():
            unseen = np.unique(given[~known])[:5].tolist()
            raise ValueError(
                f"y has labels that the model does not know: {unseen}; "
                f"its classes are {self.classes[:20].tolist()}"
            )
        return torch.as_tensor(self._order[place], dtype=torch.long, device=device)

    def decode(self, indices: Tensor) -> Tensor | NDArray[Any]:
        """Return labels: a tensor on the device of ``indices``, an array for strings."""
        if self.classes.dtype.kind in "biuf":
            return torch.as_tensor(self.classes, device=indices.device)[indices]
        labels: NDArray[Any] = self.classes[indices.cpu().numpy()]
        return labels


def raw_labels(y: Any) -> NDArray[Any]:
    """Return labels as an array of numbers, booleans or fixed-width strings.

    Parameters
    ----------
    y : array-like
        Tensor, array, list, series or frame.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If a label is missing (NaN or None), or ``y`` is empty.
    """
    array = to_numpy(y)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"y must hold at least one label, got shape {array.shape}")
    if array.dtype.kind in "OTS":
        if any(value is None or value != value for value in array.ravel().tolist()):
            raise ValueError("y has missing labels (None or NaN); drop these rows")
        array = np.array(array.tolist())
        if array.dtype.kind == "O":
            raise ValueError("y mixes labels of different kinds; use numbers or strings only")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"y has {int((~np.isfinite(array)).sum())} NaN or infinite values; drop these rows"
        )
    return array
