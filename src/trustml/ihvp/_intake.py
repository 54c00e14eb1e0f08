"""What an objective reads and checks when it is made."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trustml.core.batches import Data, Inputs, as_data, is_out_of_memory
from trustml.core.distributed import check_alike
from trustml.core.losses import OutputLoss, as_loss
from trustml.core.memory import check_fits
from trustml.core.parameters import ParameterSpace
from trustml.warnings import BackendWarning, DeterminismWarning

if TYPE_CHECKING:
    from trustml.ihvp.objective import Objective


def as_rows(data: Any) -> Data:
    """Return data, or a pair (X, y), as rows."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return as_data(data[0], data[1])
    return as_data(data)


def listed(parameters: str | Sequence[str]) -> Sequence[str]:
    """Return one selection as a list of one."""
    return [parameters] if isinstance(parameters, str) else parameters


def resolve(loss: Any, outputs: Tensor, targets: Tensor) -> OutputLoss:
    """Return the loss that is meant, by the targets' kind where none is given."""
    task = "regression" if targets.is_floating_point() else "classification"
    n_outputs = 1 if outputs.ndim == 1 else outputs.shape[-1]
    return as_loss(loss, task, n_outputs)


def check_processes(space: ParameterSpace, n: int) -> None:
    """Raise if processes that share their passes hold other weights or other rows."""
    check_alike(float(space.vector().double().sum()), "the weights")
    check_alike(float(n), "the numbers of training rows")


def check_module(module: nn.Module) -> None:
    """Refuse what exchanges data in forward, and batch normalisation by the batch."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        raise TypeError(
            "a DistributedDataParallel module waits for the other processes in every forward "
            "pass; pass the module inside it (ddp.module), within core.distributed.data_parallel()"
        )
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"{name or type(part).__name__} normalises by batch statistics even in eval mode "
                "(track_running_stats=False), so that no row has a loss of its own; train it with "
                "running statistics"
            )


def check_outputs(outputs: Tensor, again: Tensor) -> None:
    """Refuse NaN for the first training rows; warn if a second call gave something else."""
    bad = outputs.isnan().reshape(len(outputs), -1).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"the module's outputs for training rows {bad} are NaN in eval mode; look for NaN "
            "weights (a training run that diverged), buffers or inputs, or for 0 / 0 in forward()"
        )
    if not torch.equal(outputs, again):
        warnings.warn(
            "two identical calls of the module gave different outputs, in eval mode: its "
            "curvature is random too; remove the randomness from forward()",
            DeterminismWarning,
            stacklevel=3,
        )


def refuse_shape(module: nn.Module, inputs: Inputs, error: RuntimeError) -> None:
    """Raise a ValueError that names the inputs' shape, unless the memory ran out."""
    if not is_out_of_memory(error):
        given = f"of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else "as given"
        raise ValueError(f"{type(module).__name__} cannot take inputs {given}: {error}") from error


def shape_of(rows: Data) -> tuple[int, ...] | None:
    """Return the shape of a row; None where a row is several tensors."""
    first = rows.rows(0, 1).inputs
    return tuple(first.shape[1:]) if isinstance(first, Tensor) else None


def check_rows_fit(n: int, space: ParameterSpace) -> None:
    """Raise if the gradients of n rows do not fit into the memory."""
    kind = str(space.dtype).removeprefix("torch.")
    check_fits(
        n * space.size * space.dtype.itemsize,
        f"per-example gradients of {n:,} x {space.size:,} {kind}",
        "use objective.dot(V) or objective.project(P), which never hold them, or fewer rows",
        space.device,
    )


def check_dense(p: int, device: torch.device) -> None:
    """Raise if a dense float64 matrix and a copy of it do not fit into the memory."""
    check_fits(
        16 * p**2,
        f"the dense {p:,} x {p:,} float64 matrix and its copy",
        'use its products (A @ V), method="cg" or method="ekfac", or fewer parameters',
        device,
    )


def in_double(objective: Objective) -> Objective:
    """Return the same objective in float64, or itself with a warning if its module casts."""
    module = copy.deepcopy(objective.module).double()
    data = objective.data.to(dtype=torch.float64)
    try:
        return objective.like(module, data, objective.space.on(module))
    except ValueError as error:
        if "dtype" not in str(error) and "type" not in str(error):
            raise
        warnings.warn(
            f"{type(module).__name__} does not run in float64 ({error}): its curvature has the "
            f"rounding of {objective.space.dtype}; remove the casts from forward()",
            BackendWarning,
            stacklevel=3,
        )
        return objective
