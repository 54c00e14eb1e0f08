"""A pass over data that ends in a sum, or in a row for each row; shared among processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from trustml.core import distributed
from trustml.core.batches import Batch, Data, map_batches


def total(
    fn: Callable[[Batch], Tensor],
    data: Data,
    batch_size: int | Literal["auto"] = "auto",
    description: str | None = None,
) -> Tensor:
    """Return the sum of ``fn(batch)`` over the data, in float64.

    Parameters
    ----------
    fn : callable
        Its tensors have the same shape for every batch, however many rows there are.
    data : Data
        The rows; inside ``data_parallel()`` each process takes a part of them.
    batch_size, description
        As for ``map_batches``.

    Returns
    -------
    Tensor
        The same on every process.

    Examples
    --------
    >>> from trustml.core.batches import as_data
    >>> total(lambda batch: batch.inputs.sum(0), as_data(torch.ones(5, 2)), batch_size=3)
    tensor([5., 5.], dtype=torch.float64)
    """

    def own() -> Tensor | None:
        found: Tensor | None = None
        for part in map_batches(fn, data, batch_size, description, rows):
            if found is None:
                found = part.detach().to(torch.float64, copy=True)
            else:
                found += part.detach()
        return found

    rows = distributed.shard(len(data))
    return distributed.all_sum(own)


def collect(
    fn: Callable[[Batch], Tensor],
    data: Data,
    batch_size: int | Literal["auto"] = "auto",
    description: str | None = None,
    shared: bool = True,
) -> Tensor:
    """Return ``fn(batch)`` of all rows, in their order.

    Parameters
    ----------
    fn : callable
        Returns a tensor whose first axis is the batch's rows; anything else raises.
    data : Data
        The rows; inside ``data_parallel()`` each process takes a part of them.
    batch_size, description
        As for ``map_batches``.
    shared : bool
        False: every process goes through all rows, and what ``fn`` calls is shared instead, as
        an iterative solve must be.

    Returns
    -------
    Tensor of shape (n, ...)
        The same on every process.

    Examples
    --------
    >>> from trustml.core.batches import as_data
    >>> collect(lambda batch: batch.inputs.sum(1), as_data(torch.ones(3, 2)), batch_size=2)
    tensor([2., 2., 2.])
    """

    def checked(batch: Batch) -> Tensor:
        found = fn(batch).detach()
        if found.shape[:1] != (len(batch),):
            raise ValueError(
                f"a pass that collects rows got {tuple(found.shape)} for {len(batch)} rows; "
                "the first axis must be the rows"
            )
        return found

    def own() -> Tensor | None:
        # Filled in place: a list of parts and their concatenation would be twice the memory.
        whole: Tensor | None = None
        done = 0
        for part in map_batches(checked, data, batch_size, description, rows):
            if whole is None:
                if len(part) == len(rows):
                    return part
                whole = part.new_empty(len(rows), *part.shape[1:])
            whole[done : done + len(part)] = part
            done += len(part)
        return whole

    rows = distributed.shard(len(data)) if shared else range(len(data))
    return distributed.gather(own, shared)
