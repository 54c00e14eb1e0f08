"""Passes over data shared among processes: each takes its rows, all get the same result.

Start the script with ``torchrun``, initialise the process group, and say so once::

    torch.distributed.init_process_group("gloo")  # "nccl" on GPUs
    with data_parallel():
        scores = InfluenceFunctions(model).fit().scores(X, y)

Every process holds the model and all rows, runs the same lines, and ends with the same numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_GROUP: ContextVar[dist.ProcessGroup | None] = ContextVar("trustml_group", default=None)
_INSIDE: ContextVar[bool] = ContextVar("trustml_inside", default=False)
_DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
_DTYPES += [torch.int64, torch.int32, torch.uint8, torch.bool]
_MAX_DIMENSIONS = 8
_NOTHING, _READY, _FAILED = 0, 1, 2


@contextmanager
def data_parallel(group: dist.ProcessGroup | None = None) -> Iterator[int]:
    """Share the passes over data among the processes of a group; alone, change nothing.

    Without this block an initialised process group is left alone: every process computes for
    itself. Inside it, all processes must call the same things in the same order.

    Parameters
    ----------
    group : ProcessGroup or None
        None takes all processes.

    Yields
    ------
    int
        How many processes share the work.

    Raises
    ------
    RuntimeError
        If several processes were started but their process group was not initialised, or this
        one is not in the group.

    Examples
    --------
    >>> with data_parallel() as processes:
    ...     processes
    1
    """
    if not (dist.is_available() and dist.is_initialized()):
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1:
            raise RuntimeError(
                f"{started} processes were started, but their process group is not initialised; "
                'call torch.distributed.init_process_group("gloo") ("nccl" on GPUs) first'
            )
        yield 1
        return
    chosen = group if group is not None else dist.group.WORLD
    if dist.get_rank(chosen) < 0:
        raise RuntimeError("this process is not in the group that was given; leave it out")
    token = _GROUP.set(chosen)
    try:
        yield dist.get_world_size(chosen)
    finally:
        _GROUP.reset(token)


@contextmanager
def _alone() -> Iterator[None]:
    """Compute in this process only, as a part of a shared pass does."""
    group, inside = _GROUP.set(None), _INSIDE.set(True)
    try:
        yield
    finally:
        _GROUP.reset(group)
        _INSIDE.reset(inside)


def inside_pass() -> bool:
    """Return whether this is a process's own part of a shared pass: nothing kept may change."""
    return _INSIDE.get()


def shard(n: int) -> range:
    """Return which of n rows are this process's.

    Parameters
    ----------
    n : int
        Rows of all processes together.

    Returns
    -------
    range
        A contiguous part, empty where there are fewer rows than processes.

    Examples
    --------
    >>> shard(5)
    range(0, 5)
    """
    group = _GROUP.get()
    if group is None:
        return range(n)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    return range(n * rank // size, n * (rank + 1) // size)


def is_first() -> bool:
    """Return whether this process is the one that writes and decides; alone it is."""
    group = _GROUP.get()
    return group is None or dist.get_rank(group) == 0


def once(action: Callable[[], object]) -> None:
    """Do something in the first process while the others wait; an error in it is raised on all.

    Parameters
    ----------
    action : callable
        Writes a file, say.

    Examples
    --------
    >>> once(lambda: None)
    """
    first = is_first()

    def act() -> Tensor:
        if first:
            action()
        return torch.zeros(())

    all_sum(act)


def all_sum(compute: Callable[[], Tensor | None]) -> Tensor:
    """Return the sum of what the processes computed; None stands for nothing to add.

    Parameters
    ----------
    compute : callable
        The process's own part; runs alone. An error in it, or processes that are not in the same
        pass, raise on every process.

    Returns
    -------
    Tensor
        The same on every process.

    Examples
    --------
    >>> all_sum(lambda: torch.ones(2))
    tensor([1., 1.])
    """
    group = _GROUP.get()
    if group is None:
        return _something(compute())
    own, heads = _run(compute, group, "sum")
    head = _alike([h for h in heads if h.state == _READY])
    part = torch.zeros(head.shape, dtype=head.dtype) if own is None else own.detach()
    moved = _placed(part, group).contiguous().clone()
    dist.all_reduce(moved, group=group)
    return moved.to(part.device)


def gather(compute: Callable[[], Tensor | None], shared: bool = True) -> Tensor:
    """Return the rows that the processes computed, in the order of the processes.

    Parameters
    ----------
    compute : callable
        As for ``all_sum``; its tensors may differ in their number of rows.
    shared : bool
        False: every process has computed all rows.

    Returns
    -------
    Tensor
        The same on every process.

    Examples
    --------
    >>> gather(lambda: torch.ones(2, 1)).shape
    torch.Size([2, 1])
    """
    group = _GROUP.get()
    if group is None or not shared:
        return _something(compute())
    own, heads = _run(compute, group, "rows")
    head = _alike([h.of_row() for h in heads if h.state == _READY])
    counts = [h.shape[0] if h.state == _READY else 0 for h in heads]
    shape = (max(counts), *head.shape)
    kind = torch.uint8 if head.dtype == torch.bool else head.dtype
    device = torch.device("cpu") if own is None else own.device
    padded = _placed(torch.zeros(shape, dtype=kind, device=device), group)
    if own is not None:
        padded[: len(own)] = own.detach().to(padded)
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows.to(device, head.dtype)


def agreed(value: float) -> float:
    """Return the first process's number: what was measured must not decide differently elsewhere.

    Parameters
    ----------
    value : float
        This process's own, a time or a size of memory.

    Returns
    -------
    float
        The same on every process.

    Examples
    --------
    >>> agreed(0.25)
    0.25
    """
    group = _GROUP.get()
    if group is None:
        return value
    number = _placed(torch.tensor([value], dtype=torch.float64), group)
    dist.broadcast(number, dist.get_global_rank(group, 0), group=group)
    return float(number)


def smallest(value: float) -> float:
    """Return the least of the processes' numbers, what all of them can afford.

    Parameters
    ----------
    value : float
        This process's own.

    Returns
    -------
    float
        The same on every process.

    Examples
    --------
    >>> smallest(0.25)
    0.25
    """
    group = _GROUP.get()
    if group is None:
        return value
    number = _placed(torch.tensor([value], dtype=torch.float64), group)
    dist.all_reduce(number, op=dist.ReduceOp.MIN, group=group)
    return float(number)


def check_alike(number: float, what: str) -> None:
    """Raise on all processes if they hold different things.

    Parameters
    ----------
    number : float
        What stands for the thing, a sum of its entries.
    what : str
        Its name, a plural, for the message.

    Raises
    ------
    RuntimeError
        If the numbers differ.

    Examples
    --------
    >>> check_alike(0.25, "the weights")
    """
    least, most = smallest(number), -smallest(-number)
    if least != most and not (math.isnan(least) or math.isnan(most)):
        raise RuntimeError(
            f"{what} differ between the processes; inside data_parallel() all of them must hold "
            "the same model and the same rows"
        )


class _Head:
    """What a process tells the others about its part before it sends it."""

    def __init__(self, kind: int, state: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.kind, self.state, self.dtype, self.shape = kind, state, dtype, shape

    def encode(self) -> Tensor:
        numbers = [self.kind, self.state, _DTYPES.index(self.dtype), len(self.shape), *self.shape]
        return torch.tensor(numbers + [0] * (_MAX_DIMENSIONS + 4 - len(numbers)))

    @classmethod
    def decode(cls, numbers: list[int]) -> _Head:
        kind, state, dtype, dimensions, *shape = numbers
        return cls(kind, state, _DTYPES[dtype], tuple(shape[:dimensions]))

    def of_row(self) -> _Head:
        return _Head(self.kind, self.state, self.dtype, self.shape[1:])


def _run(
    compute: Callable[[], Tensor | None], group: dist.ProcessGroup, kind: str
) -> tuple[Tensor | None, list[_Head]]:
    """Compute this process's part, and learn what the others have; raise together."""
    own: Tensor | None = None
    failure: Exception | None = None
    try:
        with _alone():
            own = compute()
    except Exception as error:  # told to the others below, and raised again
        failure = error
    state = _FAILED if failure is not None else _NOTHING if own is None else _READY
    dtype, shape = (torch.float64, ()) if own is None else (own.dtype, tuple(own.shape))
    head = _Head(("sum", "rows").index(kind), state, dtype, shape)
    mine = _placed(head.encode(), group)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, mine, group=group)
    heads = [_Head.decode(numbers.tolist()) for numbers in every]
    if failure is not None:
        try:
            raise failure
        finally:
            del failure, group  # this frame and the error hold each other, and the group
    failed = [rank for rank, h in enumerate(heads) if h.state == _FAILED]
    if failed:
        raise RuntimeError(f"process {failed[0]} failed in this pass; its own error says why")
    if len({h.kind for h in heads}) > 1:
        raise RuntimeError(
            "the processes are in different passes; inside data_parallel() all of them must call "
            "the same things in the same order"
        )
    return own, heads


def _alike(heads: list[_Head]) -> _Head:
    if not heads:
        raise RuntimeError("no process had a row to compute with")
    kinds = {(h.dtype, h.shape) for h in heads}
    if len(kinds) > 1:
        raise RuntimeError(
            f"the processes computed different things: {sorted(map(str, kinds))}; they must hold "
            "the same model and data"
        )
    return heads[0]


def _placed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Put a tensor where the group's backend can send it from."""
    return x.cuda() if dist.get_backend(group) == "nccl" else x.cpu()


def _something(x: Tensor | None) -> Tensor:
    if x is None:
        raise RuntimeError("no process had a row to compute with")
    return x
