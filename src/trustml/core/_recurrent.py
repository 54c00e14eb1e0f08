"""Recurrent layers step by step, so that the gradients of their sums can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Told of x, of a tensor that is linear in x, and of the names of the weight and the bias.
See = Callable[[Tensor, Tensor, str, str], None]
State = tuple[Tensor, ...]


def can_unroll(layer: nn.Module) -> bool:
    """Return whether this is torch's own recurrent layer, with the parameters it was made with."""
    if type(layer) not in (nn.RNN, nn.GRU, nn.LSTM):
        return False
    return set(layer._parameters) == {n for group in layer._all_weights for n in group}  # type: ignore[union-attr]


def unroll(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], see: See) -> Any:
    """Run the layer and return what it returns, or None where the input has no batch axis."""
    given = dict(zip(("input", "hx"), args, strict=False)) | kwargs
    x, state = given["input"], given.get("hx")
    if not isinstance(x, Tensor) or x.ndim != 3:
        return None
    x = x if layer.batch_first else x.transpose(0, 1)
    initial = _initial(layer, x, state)
    last: list[State] = []
    for depth in range(layer.num_layers):
        sides = []
        for reverse in range(1 + layer.bidirectional):
            suffix = f"_l{depth}{'_reverse' if reverse else ''}"
            start = tuple(part[len(last)] for part in initial)
            run, end = _run(layer, x.flip(1) if reverse else x, start, suffix, see)
            sides.append(run.flip(1) if reverse else run)
            last.append(end)
        x = torch.cat(sides, dim=2)
    ends = [torch.stack(part) for part in zip(*last, strict=True)]
    return x if layer.batch_first else x.transpose(0, 1), _packed(ends)


def _packed(ends: list[Tensor]) -> Any:
    return ends[0] if len(ends) == 1 else tuple(ends)


def _initial(layer: Any, x: Tensor, state: Any) -> State:
    if state is not None:
        return tuple(state) if isinstance(state, (tuple, list)) else (state,)
    count = layer.num_layers * (1 + layer.bidirectional)
    hidden = x.new_zeros(count, len(x), layer.proj_size or layer.hidden_size)
    if layer.mode != "LSTM":
        return (hidden,)
    return hidden, x.new_zeros(count, len(x), layer.hidden_size)


def _run(layer: Any, x: Tensor, state: State, suffix: str, see: See) -> tuple[Tensor, State]:
    """Run one direction of one layer over x (b, t, i)."""

    def named(kind: str) -> Tensor | None:
        return getattr(layer, kind + suffix, None)

    weight, bias, out = named("weight_hh"), named("bias_hh"), named("weight_hr")
    driven = F.linear(x, layer.__getattr__("weight_ih" + suffix), named("bias_ih"))
    # Zeros that are added to each step's sums: their gradient is that of the sums.
    recurrent = torch.zeros_like(driven, requires_grad=True)
    projected = x.new_zeros(*x.shape[:2], layer.proj_size, requires_grad=True)
    before, raw, after = [], [], []
    for t in range(x.shape[1]):
        before.append(state[0])
        fed = F.linear(state[0], weight, bias) + recurrent[:, t]  # type: ignore[arg-type]
        state = _step(layer, driven[:, t], fed, state)
        if out is not None:
            raw.append(state[0])
            state = (F.linear(state[0], out) + projected[:, t], *state[1:])
        after.append(state[0])
    see(x, driven, "weight_ih" + suffix, "bias_ih" + suffix)
    see(torch.stack(before, 1), recurrent, "weight_hh" + suffix, "bias_hh" + suffix)
    if out is not None:
        see(torch.stack(raw, 1), projected, "weight_hr" + suffix, "")
    return torch.stack(after, 1), state


def _step(layer: Any, driven: Tensor, fed: Tensor, state: State) -> State:
    if layer.mode == "LSTM":
        i, f, g, o = (driven + fed).chunk(4, dim=1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
    if layer.mode == "GRU":
        (r, z, new), (r_fed, z_fed, new_fed) = driven.chunk(3, dim=1), fed.chunk(3, dim=1)
        z = (z + z_fed).sigmoid()
        new = (new + (r + r_fed).sigmoid() * new_fed).tanh()
        return ((1 - z) * new + z * state[0],)
    total = driven + fed
    return (total.relu() if layer.mode == "RNN_RELU" else total.tanh(),)
