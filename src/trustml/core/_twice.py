"""Functions that torch cannot differentiate twice, or differentiates wrongly, written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """Run a module so that its second derivatives exist and are right.

    On a CPU torch's fused weight norm has wrong second derivatives (its Hessian is not even
    symmetric), and EmbeddingBag has none; cuDNN's recurrent layers have no gradients in eval mode.
    """
    parts = list(module.modules())
    cudnn = torch.backends.cudnn.enabled
    if any(map(_needs_writing_out, parts)):
        with _WrittenOut():
            yield
    elif cudnn and any(isinstance(part, nn.RNNBase) for part in parts):
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield


def _needs_writing_out(part: nn.Module) -> bool:
    if isinstance(part, (_WeightNorm, nn.EmbeddingBag)):
        return True
    return any(isinstance(hook, WeightNorm) for hook in part._forward_pre_hooks.values())


class _WrittenOut(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch._weight_norm:
            return _weight_norm(*args, **kwargs)
        if func is F.embedding_bag:
            given = _BAG.bind(*args, **kwargs)
            given.apply_defaults()
            options = given.arguments
            plain = options["input"].ndim == 2 and options["max_norm"] is None
            if plain and options["weight"].requires_grad:
                return _bag(**options)
        return func(*args, **kwargs)


_BAG = signature(F.embedding_bag)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = [axis for axis in range(v.ndim) if axis != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=None if dim == -1 else axes, keepdim=dim != -1)
    return v * (g / norm)


def _bag(
    input: Tensor,
    weight: Tensor,
    mode: str,
    per_sample_weights: Tensor | None,
    padding_idx: int | None,
    **_: Any,
) -> Tensor:
    found = F.embedding(input, weight, padding_idx)
    counted = torch.ones_like(input) if padding_idx is None else input != padding_idx
    counted = counted.to(found)[..., None]
    if mode == "max":
        nothing = (counted.sum(1) == 0).to(found)
        return found.masked_fill(counted == 0, -torch.inf).amax(1).masked_fill(nothing > 0, 0)
    weights = counted if per_sample_weights is None else counted * per_sample_weights[..., None]
    total = (found * weights).sum(1)
    return total / counted.sum(1).clamp_min(1) if mode == "mean" else total
