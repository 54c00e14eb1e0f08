"""Data of any kind as batches with row indices; batches that shrink when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from trustml.core._sources import MapSource, MemorySource, RawSource, Source
from trustml.core.modes import precision
from trustml.core.progress import track
from trustml.core.validation import check_positive_int, is_sparse

T = TypeVar("T")
Inputs = Tensor | dict[str, Tensor] | tuple[Tensor, ...]

_AUTO_BATCH = 512
# Rows of so few numbers cost less to compute than to call for: more of them go at once.
_FEW_NUMBERS, _AUTO_BATCH_OF_FEW = 128, 2048


def apply(fn: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Return ``inputs`` with ``fn`` applied to each of its tensors."""
    if isinstance(inputs, Tensor):
        return fn(inputs)
    if isinstance(inputs, tuple):
        return tuple(fn(part) for part in inputs)
    return {key: fn(part) for key, part in inputs.items()}


def batch_length(inputs: Inputs) -> int:
    """Return the number of rows of a batch's inputs."""
    return len(_first(inputs))


def _first(inputs: Inputs) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs
    return inputs[0] if isinstance(inputs, tuple) else next(iter(inputs.values()))


def forward(module: Callable[..., Any], inputs: Inputs) -> Tensor:
    """Call a module on a copy of inputs of any kind and return its output tensor.

    A module may write into its inputs: the caller's stay as they are, leaves of a graph too.

    Parameters
    ----------
    module : callable
        Called as ``module(x)``, ``module(*tuple)`` or ``module(**dict)``.
    inputs : Tensor, dict or tuple of Tensor
        One batch.

    Returns
    -------
    Tensor
        Its output, or the ``logits`` of an output that has them.

    Raises
    ------
    TypeError
        If there is no one output tensor.
    """
    inputs = apply(torch.clone, inputs)
    low = precision()
    with nullcontext() if low is None else torch.autocast(_first(inputs).device.type, low):
        if isinstance(inputs, Tensor):
            out = module(inputs)
        elif isinstance(inputs, tuple):
            out = module(*inputs)
        else:
            out = module(**inputs)
    out = getattr(out, "logits", out)
    if not isinstance(out, Tensor):
        raise TypeError(
            f"the module must return one tensor (or an output with .logits), got "
            f"{type(out).__name__}; wrap it in a module that returns the tensor that you mean"
        )
    return out.float() if out.dtype == low else out


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows: what the module eats, the targets, and which rows they are.

    Attributes
    ----------
    inputs : Tensor, dict or tuple of Tensor
        First axis: the rows.
    targets : Tensor or None
        First axis: the rows.
    indices : Tensor of shape (b,)
        Positions in the ``Data`` that the batch was drawn from.
    """

    inputs: Inputs
    targets: Tensor | None
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)


class Data:
    """Rows in a fixed order, whatever they are stored in; made by ``as_data``.

    Examples
    --------
    >>> data = as_data(torch.zeros(5, 3), torch.arange(5))
    >>> [batch.indices.tolist() for batch in data.batches(2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        source: Source,
        indices: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._source, self._indices = source, indices
        self._dtype, self._device = dtype, device

    def __len__(self) -> int:
        return len(self._source) if self._indices is None else len(self._indices)

    def __repr__(self) -> str:
        return f"Data({len(self)} rows, {type(self._source).__name__})"

    @property
    def auto_batch(self) -> int:
        """Rows of a batch where nobody says: 512, or 2048 vectors of at most 128 numbers."""
        inputs = self._source.inputs if isinstance(self._source, MemorySource) else None
        if isinstance(inputs, Tensor) and inputs.ndim == 2 and inputs.is_floating_point():
            return _AUTO_BATCH_OF_FEW if inputs.shape[1] <= _FEW_NUMBERS else _AUTO_BATCH
        return _AUTO_BATCH

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the rows in order, ``batch_size`` at a time; the last batch may be short.

        Parameters
        ----------
        batch_size : int
            At least 1.

        Yields
        ------
        Batch
        """
        batch_size = check_positive_int(batch_size, "batch_size")
        for start in range(0, len(self), batch_size):
            yield self.rows(start, min(start + batch_size, len(self)))

    def rows(self, start: int, stop: int) -> Batch:
        """Return rows ``start`` to ``stop`` as one batch.

        Parameters
        ----------
        start, stop : int
            As in a slice.

        Returns
        -------
        Batch
        """
        positions = torch.arange(start, stop)
        wanted = positions if self._indices is None else self._indices[start:stop]
        inputs, targets = self._source.fetch(wanted)
        if targets is not None:
            targets = self._place(targets)
        return Batch(apply(self._place, inputs), targets, positions)

    def subset(self, indices: Any) -> Data:
        """Return the rows at ``indices`` (ints, or a boolean mask), in that order.

        Parameters
        ----------
        indices : array-like
            Positions in this data; negative ones count from the end.

        Returns
        -------
        Data

        Raises
        ------
        IndexError
            If a position is outside the data, or a mask has another length.
        ValueError
            If no row is left.
        """
        chosen = torch.as_tensor(indices).cpu().reshape(-1)
        if chosen.dtype == torch.bool:
            if len(chosen) != len(self):
                raise IndexError(f"a mask of {len(chosen)} rows for data of {len(self)} rows")
            chosen = chosen.nonzero().squeeze(1)
        if len(chosen) == 0:
            raise ValueError("indices select no row; at least one is needed")
        if chosen.is_floating_point():
            raise IndexError(f"indices must be integers or a mask, got {chosen.dtype}")
        if int(chosen.max()) >= len(self) or int(chosen.min()) < -len(self):
            raise IndexError(
                f"indices must be in [0, {len(self)}), got {int(chosen.min())} to "
                f"{int(chosen.max())}"
            )
        chosen = torch.where(chosen < 0, chosen + len(self), chosen).long()
        held = chosen if self._indices is None else self._indices[chosen]
        return Data(self._source, held, self._dtype, self._device)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Data:
        """Return the same rows, delivered on a device and with a floating point type.

        Parameters
        ----------
        device : torch.device, str or None
            None keeps.
        dtype : torch.dtype or None
            For what is floating point; integers stay. None keeps.

        Returns
        -------
        Data
        """
        return Data(self._source, self._indices, dtype or self._dtype, device or self._device)

    def cache(self) -> Data:
        """Return the same rows with their preparation done once and held in memory."""
        whole = self.rows(0, len(self))
        return Data(MemorySource(whole.inputs, whole.targets), None, self._dtype, self._device)

    @property
    def inputs(self) -> Inputs:
        """All inputs, in memory."""
        return self.rows(0, len(self)).inputs

    @property
    def targets(self) -> Tensor | None:
        """All targets (n, ...), in memory; None where there are none."""
        return self.rows(0, len(self)).targets

    def _place(self, x: Tensor) -> Tensor:
        return x.to(self._device, self._dtype if x.is_floating_point() else None)


def as_data(
    X: Any,
    y: Any = None,
    *,
    prepare: Callable[[Any], Inputs] | None = None,
    encode: Callable[[Any], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Data:
    """Return any kind of data as ``Data``.

    Parameters
    ----------
    X : array, tensor, frame, list, dict or tuple of tensors, Dataset, DataLoader or Data
        A dict is passed to the module as keywords, a tuple as arguments. Items of a Dataset and
        batches of a DataLoader are ``(x, y)``, ``x``, or dicts (targets under "labels" or
        "label"). A DataLoader must not shuffle or drop rows; its batch size is not used.
    y : array-like or None
        Targets, where ``X`` does not hold them.
    prepare : callable or None
        Maps raw rows of ``X`` to what the module eats; called batch by batch.
    encode : callable or None
        Maps raw targets to a tensor.
    dtype : torch.dtype or None
        Floating point type to deliver. Arrays, lists and frames of integers take it too; tensors
        of integers (tokens) stay integers.
    device : torch.device, str or None
        Where batches are delivered.

    Returns
    -------
    Data

    Raises
    ------
    TypeError
        If ``X`` is of no known kind, or holds something else than numbers.
    ValueError
        If there are no rows, lengths differ, a number is NaN or infinite, or a DataLoader
        shuffles or drops rows.

    Examples
    --------
    >>> len(as_data([[1.0, 2.0], [3.0, 4.0]], [0, 1]))
    2
    """
    if isinstance(X, Data):
        if y is not None or prepare is not None or encode is not None:
            raise ValueError("X is Data already and holds its own targets; pass no y beside it")
        return X.to(device, dtype)
    source: Source
    if isinstance(X, (torch.utils.data.Dataset, torch.utils.data.DataLoader)):
        source = MapSource.of(X, y, prepare, encode)
    elif isinstance(X, (str, bytes)) or not (hasattr(X, "__len__") or is_sparse(X)):
        raise TypeError(
            f"X must be an array, tensor, frame, list, dict or tuple of tensors, Dataset or "
            f"DataLoader, got {type(X).__name__}"
        )
    elif prepare is None and encode is None:
        source = MemorySource.of(X, y, dtype)
    else:
        source = RawSource.of(X, y, prepare, encode, dtype)
    return Data(source, None, dtype, device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on a device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in (
            "DefaultCPUAllocator: can't allocate memory",
            "DefaultCPUAllocator: not enough memory",
            "CUDA out of memory",
            "MPS backend out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
        )
    )


def map_batches(
    fn: Callable[[Batch], T],
    data: Data,
    batch_size: int | Literal["auto"] = "auto",
    description: str | None = None,
    rows: range | None = None,
) -> Iterator[T]:
    """Yield ``fn(batch)`` in the order of the rows; halve the batches when memory runs out.

    Parameters
    ----------
    fn : callable
        Must not keep what it computed before it failed.
    data : Data
        The rows.
    batch_size : int or "auto"
        Where to begin; "auto" is ``data.auto_batch``.
    description : str or None
        Text of a progress bar; None shows none.
    rows : range or None
        Which part of the data; a batch's ``indices`` stay positions in all of it. None is all.

    Yields
    ------
    object
        One result a batch. When a single row is too much, torch's own error passes through.

    Examples
    --------
    >>> data = as_data(torch.ones(5, 2))
    >>> [int(total) for total in map_batches(lambda b: b.inputs.sum(), data, batch_size=3)]
    [6, 4]
    """
    size = data.auto_batch if batch_size == "auto" else check_positive_int(batch_size, "batch_size")
    rows = range(len(data)) if rows is None else rows
    yield from track(_adaptive(fn, data, size, rows), description, total=-(-len(rows) // size))


def _adaptive(fn: Callable[[Batch], T], data: Data, size: int, rows: range) -> Iterator[T]:
    start = rows.start
    while start < rows.stop:
        stop = min(start + size, rows.stop)
        try:
            result = fn(data.rows(start, stop))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
            size = (stop - start) // 2
            error.__traceback__ = None  # it holds the tensors of the failed call alive
        else:
            yield result
            start = stop
            continue
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
