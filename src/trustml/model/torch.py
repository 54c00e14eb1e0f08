"""Torch modules as they are: nothing is rewritten."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from trustml.model.converted import Converted, Task
from trustml.model.predictions import convert_callable


def convert(module: Any, task: Task | None, device: torch.device | str | None) -> Converted | None:
    """Take a torch module; it is copied only if it has to move to another device.

    Parameters
    ----------
    module : object
        Anything; only modules are taken.
    task : str or None
        What the user says the outputs are for.
    device : torch.device, str or None
        Where to run; None is where the module lives.

    Returns
    -------
    Converted or None
        None if it is no module. One without parameters is prediction-only.
    """
    if not isinstance(module, nn.Module):
        return None
    here = next(module.parameters(), None)
    if here is None:
        return convert_callable(module, task)
    if device is not None and torch.device(device) != here.device:
        module = copy.deepcopy(module).to(device)
    return Converted(
        source=module,
        module=module,
        outputs="values" if task == "regression" else "logits",
        task=task,
        head_name=_last_child(module),
    )


def _last_child(module: nn.Module) -> str | None:
    """Name the head of a plain Sequential without a trace."""
    if not isinstance(module, nn.Sequential) or len(module) == 0:
        return None
    name, last = list(module.named_children())[-1]
    return name if type(last) is nn.Linear else None
