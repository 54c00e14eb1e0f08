"""Where rows come from: memory, raw arrays that are prepared batch by batch, datasets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sized
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from trustml.core.validation import (
    as_tensor,
    check_finite,
    check_same_length,
    frame_columns,
    n_rows,
    take_rows,
    to_numpy,
)

_TARGET_KEYS = ("labels", "label", "targets", "target")


class Source(ABC):
    """Rows that can be fetched by position."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def fetch(self, indices: Tensor) -> tuple[Any, Tensor | None]:
        """Return inputs and targets of these rows, on any device."""


class MemorySource(Source):
    """Tensors in memory."""

    def __init__(self, inputs: Any, targets: Tensor | None) -> None:
        self.inputs, self.targets = inputs, targets

    @classmethod
    def of(cls, X: Any, y: Any, dtype: torch.dtype | None) -> Self:
        """Make tensors of what was given, and check them."""
        inputs = _as_inputs(X, dtype)
        for name, part in _parts(inputs).items():
            check_finite(part, name)
        targets = None if y is None else as_targets(y)
        check_same_length(**_parts(inputs), y=targets)
        return cls(inputs, targets)

    def __len__(self) -> int:
        return len(next(iter(_parts(self.inputs).values())))

    def fetch(self, indices: Tensor) -> tuple[Any, Tensor | None]:
        contiguous = len(indices) > 0 and bool((indices.diff() == 1).all())
        where: Any = slice(int(indices[0]), int(indices[-1]) + 1) if contiguous else indices

        def take(part: Tensor) -> Tensor:
            # A copy: a module that overwrites its input must not reach the user's rows.
            return part[where].clone() if contiguous else part[where.to(part.device)]

        targets = None if self.targets is None else take(self.targets)
        if isinstance(self.inputs, Tensor):
            return take(self.inputs), targets
        if isinstance(self.inputs, tuple):
            return tuple(take(part) for part in self.inputs), targets
        return {key: take(part) for key, part in self.inputs.items()}, targets


class RawSource(Source):
    """Raw rows, prepared when they are fetched."""

    def __init__(
        self,
        X: Any,
        y: Any,
        prepare: Callable[[Any], Any] | None,
        encode: Callable[[Any], Tensor] | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.X, self.y, self.prepare, self.encode, self.dtype = X, y, prepare, encode, dtype

    @classmethod
    def of(
        cls,
        X: Any,
        y: Any,
        prepare: Callable[[Any], Any] | None,
        encode: Callable[[Any], Tensor] | None,
        dtype: torch.dtype | None,
    ) -> Self:
        """Check lengths; numbers are checked as they are prepared."""
        columns = X if isinstance(X, Mapping) and frame_columns(X) is None else {"X": X}
        check_same_length(**dict(columns), y=y)
        return cls(X, y, prepare, encode, dtype)

    def __len__(self) -> int:
        if isinstance(self.X, Mapping) and frame_columns(self.X) is None:
            return n_rows(next(iter(self.X.values())))
        return n_rows(self.X)

    def fetch(self, indices: Tensor) -> tuple[Any, Tensor | None]:
        where = indices.numpy()
        if isinstance(self.X, Mapping) and frame_columns(self.X) is None:
            raw: Any = {key: take_rows(part, where) for key, part in self.X.items()}
        else:
            raw = take_rows(self.X, where)
        inputs = _as_inputs(raw, self.dtype) if self.prepare is None else self.prepare(raw)
        for name, part in _parts(inputs).items():
            check_finite(part, name)
        if self.y is None:
            return inputs, None
        labels = take_rows(self.y, where)
        return inputs, as_targets(labels) if self.encode is None else self.encode(labels)


class MapSource(Source):
    """A map-style Dataset, collated when its rows are fetched."""

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[list[Any]], Any],
        y: Any,
        prepare: Callable[[Any], Any] | None,
        encode: Callable[[Any], Tensor] | None,
    ) -> None:
        self.dataset, self.collate, self.y = dataset, collate, y
        self.prepare, self.encode = prepare, encode

    @classmethod
    def of(
        cls,
        X: Dataset[Any] | DataLoader[Any],
        y: Any,
        prepare: Callable[[Any], Any] | None,
        encode: Callable[[Any], Tensor] | None,
    ) -> Self:
        """Take a Dataset, or the Dataset of a DataLoader that keeps every row in order."""
        collate: Callable[[list[Any]], Any] = default_collate
        dataset: Any = X
        if isinstance(X, DataLoader):
            _check_loader(X)
            dataset, collate = X.dataset, X.collate_fn
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise TypeError(
                f"{type(dataset).__name__} is iterable-style: its rows have no positions; pass a "
                "map-style Dataset (with __len__ and __getitem__), or tensors"
            )
        check_same_length(X=dataset, y=y)
        return cls(dataset, collate, y, prepare, encode)

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices: Tensor) -> tuple[Any, Tensor | None]:
        batch = self.collate([self.dataset[i] for i in indices.tolist()])
        raw, labels = _split(batch)
        if self.y is not None:
            labels = take_rows(self.y, indices.numpy())
        inputs = _as_inputs(raw, None) if self.prepare is None else self.prepare(raw)
        for name, part in _parts(inputs).items():
            check_finite(part, name)
        if labels is None:
            return inputs, None
        return inputs, as_targets(labels) if self.encode is None else self.encode(labels)


def as_targets(y: Any) -> Tensor:
    """Return targets as a tensor: integers and booleans as long, floats as they are."""
    if isinstance(y, Tensor):
        labels = y
    else:
        array = to_numpy(y)
        if array.dtype.kind not in "biuf":
            raise TypeError(
                f"y must hold numbers, got dtype {array.dtype} (it begins with "
                f"{array.reshape(-1)[:1].tolist()}); encode the labels as 0 .. n_classes - 1"
            )
        labels = as_tensor(array, name="y")
    check_finite(labels, "y")
    return labels if labels.is_floating_point() else labels.long()


def _as_inputs(X: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(X, Tensor):
        return _at_least_1d(X, "X")
    if isinstance(X, Mapping) and frame_columns(X) is None:
        if not X:
            raise ValueError("X is an empty dict; it needs a tensor for each argument")
        parts = {str(k): _at_least_1d(as_tensor(v, name=f"X[{k!r}]"), str(k)) for k, v in X.items()}
        check_same_length(**parts)
        return parts
    if isinstance(X, tuple) and X and all(_is_batch(v) for v in X):
        return tuple(as_tensor(v, name=f"X[{i}]") for i, v in enumerate(X))
    x = _at_least_1d(as_tensor(X), "X")
    return x if dtype is None else x.to(dtype)


def _is_batch(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray)) and x.ndim >= 1


def _at_least_1d(x: Tensor, name: str) -> Tensor:
    if x.ndim == 0:
        raise ValueError(f"{name} is a single number; its first axis must be the rows")
    return x


def _parts(inputs: Any) -> dict[str, Tensor]:
    if isinstance(inputs, Tensor):
        return {"X": inputs}
    if isinstance(inputs, tuple):
        return {f"X_{i}": part for i, part in enumerate(inputs)}
    return {f"X_{key}": part for key, part in inputs.items()}


def _split(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the targets of a collated batch."""
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in _TARGET_KEYS if key in batch), None)
        return {key: part for key, part in batch.items() if key not in _TARGET_KEYS}, labels
    if isinstance(batch, (list, tuple)):
        if len(batch) == 2:
            return batch[0], batch[1]
        if len(batch) == 1:
            return batch[0], None
        return tuple(batch[:-1]), batch[-1]
    return batch, None


def _check_loader(loader: DataLoader[Any]) -> None:
    if isinstance(loader.dataset, IterableDataset):
        return
    batches = loader.batch_sampler
    if batches is None:
        raise ValueError(
            "the DataLoader has batch_size=None, so its rows cannot be told apart; give it one"
        )
    if type(batches) is not BatchSampler or not isinstance(batches.sampler, SequentialSampler):
        sampler = getattr(batches, "sampler", batches)
        raise ValueError(
            f"the DataLoader does not go through its rows in order (its sampler is "
            f"{type(sampler).__name__}); build it with shuffle=False, or pass its Dataset"
        )
    if batches.drop_last:
        raise ValueError(
            "the DataLoader drops the last rows; build it with drop_last=False, or pass its Dataset"
        )
