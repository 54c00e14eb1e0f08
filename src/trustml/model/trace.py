"""What one small batch tells about a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trustml.core.batches import Inputs, apply, forward
from trustml.core.features import find_head, layer_shapes
from trustml.core.modes import evaluating
from trustml.model.converted import Task

_ROWS = 2


@dataclass(frozen=True)
class Trace:
    """Facts of a module that need a forward pass.

    Attributes
    ----------
    n_outputs : int
        Size of the last axis of the outputs; 1 for outputs of shape (n,).
    head_name : str or None
        The last linear layer.
    layers : dict of str to tuple of int or None
        Layers in the order in which they finish, and the shape of one row of their output; None
        where the output is no tensor with a row for each input.
    normalised : str or None
        Why the outputs are probabilities already, None if they are not.
    """

    n_outputs: int
    head_name: str | None
    layers: dict[str, tuple[int, ...] | None]
    normalised: str | None = None


@torch.no_grad()
def trace(module: nn.Module, inputs: Inputs) -> Trace:
    """Run the first rows of a batch and look.

    Parameters
    ----------
    module : nn.Module
        Run in eval mode.
    inputs : Tensor, dict or tuple of Tensor
        A batch that it takes.

    Returns
    -------
    Trace

    Raises
    ------
    ValueError
        If the output is not one row per input row.
    """
    few = apply(lambda part: part[:_ROWS], inputs)
    rows = len(next(iter(few.values())) if isinstance(few, dict) else _first(few))
    with evaluating(module):
        outputs = forward(module, few)
    if outputs.ndim == 0 or len(outputs) != rows:
        raise ValueError(
            f"the module gave outputs of shape {tuple(outputs.shape)} for {rows} rows; "
            "its first output axis must be the rows"
        )
    layers = layer_shapes(module, few)
    return Trace(
        n_outputs=1 if outputs.ndim == 1 else outputs.shape[-1],
        head_name=find_head(module, few),
        layers=layers,
        normalised=_normalised(module, list(layers), outputs),
    )


def check_raw(seen: Trace, task: Task) -> None:
    """Refuse a classifier that returns probabilities: losses and curvature need logits.

    Raises
    ------
    ValueError
        If it does.
    """
    if task != "regression" and seen.normalised is not None:
        raise ValueError(
            f"the module's outputs are probabilities ({seen.normalised}), but trustml reads them "
            "as logits; remove the last activation (torch.nn.CrossEntropyLoss and "
            "BCEWithLogitsLoss take raw outputs too)"
        )


def _first(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return inputs[0] if isinstance(inputs, tuple) else inputs


def _normalised(module: nn.Module, layers: list[str], outputs: Tensor) -> str | None:
    leaves = [name for name in layers if not any(module.get_submodule(name).children())]
    last = module.get_submodule(leaves[-1]) if leaves else None
    if isinstance(last, (nn.Softmax, nn.Sigmoid)):
        same_size = outputs.ndim <= 2
        return f"it ends in {type(last).__name__}" if same_size else None
    if outputs.ndim == 2 and outputs.shape[1] > 1 and bool((outputs >= 0).all()):
        sums = outputs.double().sum(1)
        if torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
            return "its rows are non-negative and sum to one"
    return None
