"""What happens inside a module on one batch: its layers, their inputs and outputs, its head."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from trustml.core.batches import Inputs, batch_length, forward
from trustml.core.modes import evaluating


class Capture:
    """Record what goes into and comes out of named layers while the block runs.

    Tensors keep their graph. A layer that is called several times shows its last call.

    Parameters
    ----------
    module : nn.Module
        Only hooked, and unhooked at the end of the block.
    inputs_of, outputs_of : sequence of str
        Names as in ``module.named_modules()``; "" is the module itself.

    Attributes
    ----------
    inputs, outputs : dict of str to Tensor
        Filled by each forward pass; a layer that did not run is missing.

    Raises
    ------
    ValueError
        If the module has no layer of that name.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> with Capture(net, inputs_of=["2"]) as seen:
    ...     y = net(torch.zeros(5, 3))
    >>> seen.inputs["2"].shape
    torch.Size([5, 2])
    """

    def __init__(
        self, module: nn.Module, inputs_of: Sequence[str] = (), outputs_of: Sequence[str] = ()
    ) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        parts = dict(module.named_modules())
        unknown = [name for name in (*inputs_of, *outputs_of) if name not in parts]
        if unknown:
            raise ValueError(f"no layer named {unknown}; there are: {[n for n in parts if n]}")
        self._wanted = [(name, parts[name], self.inputs) for name in inputs_of]
        self._wanted += [(name, parts[name], self.outputs) for name in outputs_of]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, part, into in self._wanted:
            self._handles.append(
                part.register_forward_hook(self._recorder(name, into), with_kwargs=True)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _recorder(self, name: str, into: dict[str, Any]) -> Any:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            if into is self.outputs:
                into[name] = out
            else:
                into[name] = args[0] if args else next(iter(kwargs.values()), None)

        return record


@torch.no_grad()
def find_head(module: nn.Module, inputs: Inputs) -> str | None:
    """Return the name of the linear layer whose output is the module's output.

    One batch is traced; between the layer and the output there may be views (reshape, squeeze)
    and what does nothing in eval mode (Dropout, Identity), nothing else.

    Parameters
    ----------
    module : nn.Module
        Traced in eval mode.
    inputs : Tensor, dict or tuple of Tensor
        A batch that it takes.

    Returns
    -------
    str or None
        "" if the module itself is the layer, None if there is no such layer.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1), nn.Flatten(0))
    >>> find_head(net, torch.zeros(5, 3))
    '2'
    """
    calls: list[tuple[str, Tensor, int]] = []

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            calls.append((name, out, out._version))

        return record

    linear = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    handles = [m.register_forward_hook(hook(name)) for name, m in linear]
    try:
        with evaluating(module):
            final = forward(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, out, version in reversed(calls):
        same = out.data_ptr() == final.data_ptr() and out.numel() == final.numel()
        if same and out.dtype == final.dtype and out._version == version:
            return name
    return None


@torch.no_grad()
def layer_shapes(module: nn.Module, inputs: Inputs) -> dict[str, tuple[int, ...] | None]:
    """Return the layers that run, in the order in which they finish, and what they put out.

    Parameters
    ----------
    module : nn.Module
        Traced in eval mode.
    inputs : Tensor, dict or tuple of Tensor
        A batch that it takes.

    Returns
    -------
    dict of str to tuple of int or None
        Shape of one row of the output at the layer's last call, for layers with children too
        ("" is the module itself); None where the output is no tensor with a row for each input.

    Examples
    --------
    >>> layer_shapes(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(5, 3))
    {'0': (2,), '1': (2,), '': (2,)}
    """
    seen: dict[str, tuple[int, ...] | None] = {}
    n = batch_length(inputs)

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            by_rows = isinstance(out, Tensor) and out.ndim > 0 and len(out) == n
            seen.pop(name, None)
            seen[name] = tuple(out.shape[1:]) if by_rows else None

        return record

    handles = [m.register_forward_hook(hook(name)) for name, m in module.named_modules()]
    try:
        with evaluating(module):
            forward(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
