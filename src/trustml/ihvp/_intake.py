"""What an objective reads and checks when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trustml.core.batches import Data, as_data
from trustml.core.losses import OutputLoss, as_loss


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


def check_batch_norm(module: nn.Module) -> None:
    """Refuse batch normalisation without running statistics."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"{name or type(part).__name__} normalises by batch statistics even in eval mode "
                "(track_running_stats=False), so that no row has a loss of its own; train it with "
                "running statistics"
            )
