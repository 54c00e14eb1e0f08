"""Layers whose per-example gradients follow from their inputs and their outputs' gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_flatten, tree_unflatten

from trustml.core._terms import Dense, Outer, Scatter, Term
from trustml.core._windows import channels, windows
from trustml.core.modes import precision

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Call(NamedTuple):
    """One call of a layer: its input, and the gradient with respect to its output.

    ``args`` and ``kwargs`` are all that the layer was given, ``input`` the first of it. ``held``
    keeps what does not depend on the gradient from one direction to the next. ``axis`` is where the
    output had its rows, ``axes`` where each leaf of the arguments has them, None for nowhere; the
    gradient has them first.
    """

    layer: Any
    input: Tensor
    gradient: Tensor
    n: int
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012  never changed
    held: dict[str, Tensor] = {}  # noqa: RUF012  each call is given its own
    axis: int = 0
    axes: tuple[int | None, ...] = ()

    def once(self, make: Callable[[], Tensor]) -> Tensor:
        """Return what ``make`` gave when a direction first asked for it."""
        if "made" not in self.held:
            self.held["made"] = make()
        return self.held["made"]


class Affine(NamedTuple):
    """A product with a weight, and a bias, within a layer; their names there."""

    weight: str
    bias: str


class NotCovered(RuntimeError):
    """A call from which per-example gradients cannot be told."""


def has_rule(layer: nn.Module) -> bool:
    """Return whether the layer's gradients follow from its calls in closed form."""
    return _rule(layer) is not None


def has_free_axes(layer: nn.Module) -> bool:
    """Return whether the layer treats all axes of its input but the last few alike."""
    free = (_linear, _transposed_linear, _embedding, _layer_norm, _rms_norm)
    return _rule(layer) in free


def _rule(layer: Any) -> Callable[[Call], dict[str, Term]] | None:
    if isinstance(layer, Affine):
        return _affine
    for kind, fits, terms in _KINDS:
        if isinstance(layer, kind) and fits(layer):
            return terms
    return None


def _is_torchs(layer: Any) -> bool:
    """Return whether the layer runs torch's own ``forward``."""
    return str(getattr(type(layer).forward, "__module__", "")).startswith("torch.nn.modules.")


def is_whole(layer: nn.Module) -> bool:
    """Return whether the layer uses its children's parameters without calling them."""
    return isinstance(layer, nn.MultiheadAttention)


def explain(call: Call, own: Collection[str], dtype: torch.dtype) -> dict[str, Term]:
    """Return the gradients of the layer's own parameters, some more perhaps than asked for."""
    if call.gradient.ndim < 1 or call.gradient.shape[0] % call.n:
        raise NotCovered(
            f"the output of {type(call.layer).__name__} has shape {tuple(call.gradient.shape)}, "
            f"which does not begin with the {call.n} rows of the batch"
        )
    terms = _rule(call.layer)
    if terms is not None:
        x = call.input.to(dtype) if call.input.is_floating_point() else call.input
        return terms(call._replace(input=x, gradient=call.gradient.to(dtype)))
    return _by_vmap(call, own, dtype)


def _by_vmap(call: Call, own: Collection[str], dtype: torch.dtype) -> dict[str, Term]:
    """Gradients of any layer, by vectorising its own vector-Jacobian product over the rows."""
    n, rows = call.n, call.gradient.shape[0]
    parameters = {name: p.detach() for name, p in call.layer.named_parameters()}
    chosen = {name: parameters.pop(name) for name in own}
    own_dtype = next(iter(chosen.values())).dtype

    def full(x: Tensor) -> Tensor:
        # What autocast made of it: the layer runs once more, in its own precision.
        return x.detach().to(own_dtype if x.dtype == precision() else x.dtype)

    leaves, form = tree_flatten((call.args, call.kwargs))
    leaves = [full(x) if isinstance(x, Tensor) else x for x in leaves]
    axes = call.axes or tuple(_first_axis(x, rows) for x in leaves)
    inputs = [_by_row(x, n, axis) for x, axis in zip(leaves, axes, strict=True) if axis is not None]

    def one(d: Tensor, *parts: Tensor) -> dict[str, Tensor]:
        given = iter(parts)
        filled = [x if axis is None else next(given) for x, axis in zip(leaves, axes, strict=True)]
        args, kwargs = tree_unflatten(filled, form)

        def output(selected: dict[str, Tensor]) -> Tensor:
            return first_tensor(
                functional_call(call.layer, {**parameters, **selected}, args, kwargs)
            )

        gradients: dict[str, Tensor] = vjp(output, chosen)[1](d)[0]
        return gradients

    with without_vmap_notice():
        outputs = full(call.gradient).movedim(0, call.axis)
        found = vmap(one)(_by_row(outputs, n, call.axis), *inputs)
    return {name: Dense(g.detach().reshape(n, -1).to(dtype)) for name, g in found.items()}


@contextmanager
def without_vmap_notice() -> Iterator[None]:
    """Silence torch's notice that vmap loops over some kernel: still faster than our loop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because")
        yield


def _by_row(x: Tensor, n: int, axis: int) -> Tensor:
    split = (*x.shape[:axis], n, x.shape[axis] // n, *x.shape[axis + 1 :])
    return x.reshape(split).movedim(axis, 0)


def _first_axis(x: Any, rows: int) -> int | None:
    return 0 if isinstance(x, Tensor) and x.shape[:1] == torch.Size([rows]) else None


def first_tensor(out: Any) -> Tensor:
    """Return a layer's output, or the first tensor of several."""
    while isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        raise NotCovered(f"a layer takes or returns {type(out).__name__}, not a tensor")
    return out


def _linear(call: Call) -> dict[str, Term]:
    right = call.input.reshape(call.n, 1, -1, call.layer.in_features)
    left = call.gradient.reshape(call.n, 1, -1, call.layer.out_features)
    return {"weight": Outer(left, right), "bias": Dense(left.sum((1, 2)))}


def _affine(call: Call) -> dict[str, Term]:
    left = call.gradient.reshape(call.n, 1, -1, call.gradient.shape[-1])
    right = call.input.reshape(call.n, 1, -1, call.input.shape[-1])
    return {call.layer.weight: Outer(left, right), call.layer.bias: Dense(left.sum((1, 2)))}


def _convolution(call: Call) -> dict[str, Term]:
    layer, n = call.layer, call.n
    _need_dims(call, len(layer.kernel_size) + 2)
    right = call.once(lambda: windows(layer, call.input, n))
    left = channels(call.gradient, n, layer.groups)
    return {"weight": Outer(left, right), "bias": Dense(left.sum(2).reshape(n, -1))}


def _transposed_convolution(call: Call) -> dict[str, Term]:
    """Let input and gradient change places in a convolution."""
    layer, n = call.layer, call.n
    _need_dims(call, len(layer.kernel_size) + 2)
    left = call.once(lambda: channels(call.input, n, layer.groups))
    right = windows(layer, call.gradient, n, call.input.shape[2:])
    bias = call.gradient.flatten(2).sum(2).reshape(n, -1, layer.out_channels).sum(1)
    return {"weight": Outer(left, right), "bias": Dense(bias)}


def _transposed_linear(call: Call) -> dict[str, Term]:
    width, out = call.layer.weight.shape
    left = call.input.reshape(call.n, 1, -1, width)
    right = call.gradient.reshape(call.n, 1, -1, out)
    return {"weight": Outer(left, right), "bias": Dense(right.sum((1, 2)))}


def _prelu(call: Call) -> dict[str, Term]:
    slopes = call.gradient * call.input.clamp_max(0)
    if call.layer.num_parameters == 1:
        return {"weight": Dense(slopes.reshape(call.n, -1).sum(1, keepdim=True))}
    return {"weight": _scaled(call._replace(gradient=slopes), slopes, (1,))["bias"]}


def _embedding(call: Call) -> dict[str, Term]:
    layer, n = call.layer, call.n
    indices = call.input.reshape(n, -1)
    left = call.gradient.reshape(n, -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        left = left * (indices != layer.padding_idx)[..., None]
    return {"weight": Scatter(indices, left, layer.num_embeddings)}


def _scaled(call: Call, normalised: Tensor, axes: tuple[int, ...]) -> dict[str, Term]:
    """Gradients of ``weight ∘ normalised + bias``, the parameters lying along ``axes``."""
    n, d = call.n, call.gradient
    rest = [axis for axis in range(1, d.ndim) if axis not in axes]

    def gather(x: Tensor) -> Tensor:
        summed = x.sum(rest) if rest else x
        return summed.reshape(n, len(x) // n, -1).sum(1)

    return {"weight": Dense(gather(d * normalised)), "bias": Dense(gather(d))}


def _layer_norm(call: Call) -> dict[str, Term]:
    shape = call.layer.normalized_shape
    _need_rows(call, len(shape) + 1)
    axes = tuple(range(call.input.ndim - len(shape), call.input.ndim))
    normalised = call.once(lambda: F.layer_norm(call.input, shape, eps=call.layer.eps))
    return _scaled(call, normalised, axes)


def _rms_norm(call: Call) -> dict[str, Term]:
    shape = call.layer.normalized_shape
    _need_rows(call, len(shape) + 1)
    axes = tuple(range(call.input.ndim - len(shape), call.input.ndim))
    normalised = call.once(lambda: F.rms_norm(call.input, shape, eps=call.layer.eps))
    return _scaled(call, normalised, axes)


def _group_norm(call: Call) -> dict[str, Term]:
    layer = call.layer
    normalised = call.once(lambda: F.group_norm(call.input, layer.num_groups, eps=layer.eps))
    return _scaled(call, normalised, (1,))


def _batch_norm(call: Call) -> dict[str, Term]:
    layer = call.layer
    _need_rows(call, 2)
    mean, variance = (seen.to(call.input) for seen in (layer.running_mean, layer.running_var))
    x = F.batch_norm(call.input, mean, variance, eps=layer.eps)
    return _scaled(call, x, (1,))


def _instance_norm(call: Call) -> dict[str, Term]:
    layer = call.layer
    _need_dims(call, layer._get_no_batch_dim() + 1)
    if layer.running_mean is None:
        return _scaled(call, F.instance_norm(call.input, eps=layer.eps), (1,))
    mean, variance = (seen.to(call.input) for seen in (layer.running_mean, layer.running_var))
    x = F.instance_norm(call.input, mean, variance, use_input_stats=False, eps=layer.eps)
    return _scaled(call, x, (1,))


def _need_dims(call: Call, ndim: int) -> None:
    if call.input.ndim != ndim:
        raise NotCovered(f"{type(call.layer).__name__} was called without a batch axis")


def _need_rows(call: Call, ndim: int) -> None:
    if call.input.ndim < ndim:
        raise NotCovered(f"{type(call.layer).__name__} was called without a batch axis")


def _is_constant(table: nn.Embedding) -> bool:
    # max_norm rewrites the table, scale_grad_by_freq mixes the rows of a batch.
    return _is_torchs(table) and table.max_norm is None and not table.scale_grad_by_freq


def _is_transposed_linear(layer: nn.Module) -> bool:
    """Return whether this is GPT-2's linear layer, which keeps its weight as (in, out)."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


_KINDS: list[tuple[Any, Callable[[Any], bool], Callable[[Call], dict[str, Term]]]] = [
    (nn.Linear, _is_torchs, _linear),
    (_CONVOLUTIONS, _is_torchs, _convolution),
    (_TRANSPOSED, _is_torchs, _transposed_convolution),
    (nn.Embedding, _is_constant, _embedding),
    (nn.LayerNorm, _is_torchs, _layer_norm),
    (nn.RMSNorm, _is_torchs, _rms_norm),
    (nn.GroupNorm, _is_torchs, _group_norm),
    (_BatchNorm, lambda b: _is_torchs(b) and b.running_mean is not None, _batch_norm),
    (_InstanceNorm, _is_torchs, _instance_norm),
    (nn.PReLU, _is_torchs, _prelu),
    (nn.Module, _is_transposed_linear, _transposed_linear),
]
