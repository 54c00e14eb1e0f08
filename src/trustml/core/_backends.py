"""Three ways to the gradients of every example's outputs: hooks, vmap, a loop."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, vjp, vmap
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._pytree import tree_flatten

from trustml.core._layers import (
    Affine,
    Call,
    NotCovered,
    explain,
    first_tensor,
    has_free_axes,
    has_rule,
    is_whole,
    without_vmap_notice,
)
from trustml.core._recurrent import can_unroll, unroll
from trustml.core._terms import Dense, Term, add, chunks
from trustml.core.batches import Inputs, apply, batch_length, forward
from trustml.core.parameters import ParameterSpace

Cotangents = Callable[[Tensor], Tensor]
Terms = list[tuple[slice, Term]]  # the gradients of some examples, parameter by parameter
Read = Callable[[Terms], Tensor]


class Backend(ABC):
    """One way to per-example gradients of a module with respect to some parameters.

    The module is called functionally, with parameters that share the user's memory and have
    flags of their own: nothing of the user's is changed.
    """

    name: str

    def __init__(self, module: nn.Module, space: ParameterSpace) -> None:
        self.module, self.space = module, space
        # Half precision has too few bits for sums: its gradients are added up in float32.
        self.dtype = torch.promote_types(space.dtype, torch.float32)

    @abstractmethod
    def measure(self, inputs: Inputs, cotangents: Cotangents, read: Read) -> tuple[Tensor, Tensor]:
        """Return the outputs, and what ``read`` says of the gradients: (n, ...) or (n, r, ...)."""

    def tensors(self, graph: bool) -> dict[str, Tensor]:
        """Return all parameters, detached; the selected ones require a gradient if ``graph``."""
        chosen = set(self.space.names)
        return {
            name: p.detach().requires_grad_() if graph and name in chosen else p.detach()
            for name, p in self.module.named_parameters()
        }

    def call(self, tensors: dict[str, Tensor], inputs: Inputs) -> Tensor:
        """Run the module with these parameters."""

        def run(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.module, tensors, args, kwargs)

        return forward(run, inputs)


def directions(outputs: Tensor, u: Tensor) -> tuple[Tensor, bool]:
    """Return cotangents as (n, r, *output), and whether there was an axis r."""
    n, shape = len(outputs), outputs.shape
    if u.shape == shape:
        return u.detach().to(outputs)[:, None], False
    if u.ndim == outputs.ndim + 1 and u.shape[0] == n and u.shape[2:] == shape[1:]:
        return u.detach().to(outputs), True
    if u.ndim == 3 and u.shape[0] == n and u.shape[2] == shape[1:].numel():
        return u.detach().to(outputs).reshape(n, -1, *shape[1:]), True
    raise ValueError(
        f"cotangents must have the shape of the outputs {tuple(shape)}, or one more axis r after "
        f"the rows, got {tuple(u.shape)}"
    )


class _Seat(NamedTuple):
    """Where a call has its rows: axes of its input and its output, None where it sees none."""

    inputs: int | None
    outputs: int | None
    shape: torch.Size  # of the input, for one row
    leaves: tuple[int | None, ...]  # of all arguments


_FIRST = _Seat(0, 0, torch.Size(), ())


class Hooks(Backend):
    """One forward pass that keeps each layer's input, one backward pass a direction."""

    name = "hooks"

    def __init__(self, module: nn.Module, space: ParameterSpace) -> None:
        super().__init__(module, space)
        self.layers: list[tuple[nn.Module, dict[str, str]]] = []
        self.uncovered: list[str] = []
        self._seats: list[_Seat] | None = None
        canonical = {id(p): name for name, p in module.named_parameters()}
        chosen = set(space.names)
        inside = {
            id(part) for layer in module.modules() if is_whole(layer) for part in layer.children()
        }
        for layer in module.modules():
            own = {
                local: canonical[id(p)]
                for local, p in layer.named_parameters(recurse=is_whole(layer))
                if canonical[id(p)] in chosen and id(layer) not in inside
            }
            alone = layer is module or isinstance(layer, ParametrizationList)
            if own and (has_rule(layer) or not alone):
                self.layers.append((layer, own))
            elif own:
                self.uncovered += own.values()
        # No layer is called with these: they are vectorised, as a layer without a rule is.
        self._rest: Vmap | None = None
        if self.uncovered and self.layers:
            only = ParameterSpace(module, [f"^{re.escape(name)}$" for name in self.uncovered])
            self._rest = Vmap(module, only)

    def measure(self, inputs: Inputs, cotangents: Cotangents, read: Read) -> tuple[Tensor, Tensor]:
        n = batch_length(inputs)
        if n > 1 and self._seats is None:
            self._seats = self._find_seats(inputs)
        seats = iter(self._seats if n > 1 and self._seats is not None else ())
        calls: list[tuple[dict[str, str], Call]] = []
        edges: list[GradientEdge] = []

        def record(own: dict[str, str]) -> Any:
            def see(x: Tensor, y: Tensor, weight: str, bias: str) -> None:
                part = {local: own[local] for local in (weight, bias) if local in own}
                if part and y.requires_grad:
                    call = Call(Affine(weight, bias), x.detach(), y.detach(), n, held={})
                    calls.append((part, call))
                    edges.append(get_gradient_edge(y))

            def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Any, out: Any) -> Any:
                seat = next(seats, _FIRST)
                y = first_tensor(out)
                if not y.requires_grad:
                    return None
                if can_unroll(layer):
                    stands_in = unroll(layer, args, kwargs, see)
                    if stands_in is not None:
                        return stands_in
                x = first_tensor((*args, *kwargs.values()))
                if seat.inputs is None and x.shape != seat.shape:
                    seat = _FIRST  # copies already
                for_all = seat.inputs is None and seat.outputs is None and has_rule(layer)
                if for_all:  # seen by every row: give each its own copy in the graph
                    x, y = _copies(x, n), _copies(y, n)
                elif seat.inputs and seat.outputs is not None and has_free_axes(layer):
                    x = x.movedim(seat.inputs, 0)
                elif seat.outputs is None or (has_rule(layer) and (seat.inputs or seat.outputs)):
                    raise NotCovered(f"the rows of a {type(layer).__name__} are not its first axis")
                places = seat.outputs or 0, seat.leaves
                call = Call(layer, x.detach(), y.detach(), n, args, kwargs, {}, *places)
                calls.append((own, call))
                # An edge still means this output after an activation has overwritten it.
                edges.append(get_gradient_edge(y))
                return y if for_all else None

            return hook

        with torch.enable_grad():
            outputs = self._hooked(record, self.tensors(graph=True), inputs)
        u, stacked = directions(outputs, cotangents(outputs.detach()))
        others = self._others(inputs, u)
        found = []
        for j in range(u.shape[1]):
            last = j == u.shape[1] - 1
            gradients: Any = [None] * len(edges)
            if edges and outputs.requires_grad:
                gradients = torch.autograd.grad(
                    outputs, edges, u[:, j], retain_graph=not last, allow_unused=True
                )
            found.append(read(self._terms(calls, gradients, n, others[j])))
        return outputs.detach(), torch.stack(found, 1) if stacked else found[0]

    def _hooked(self, record: Any, tensors: dict[str, Tensor], inputs: Inputs) -> Tensor:
        handles = [
            layer.register_forward_hook(record(own), with_kwargs=True) for layer, own in self.layers
        ]
        try:
            return self.call(tensors, inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _find_seats(self, inputs: Inputs) -> list[_Seat]:
        """Return where each call has its rows: the axes that grow with the batch."""
        shapes: list[list[list[torch.Size]]] = []

        def record(own: dict[str, str]) -> Any:
            def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Any, out: Any) -> None:
                x = first_tensor((*args, *kwargs.values()))
                seen = x, first_tensor(out), *tree_flatten((args, kwargs))[0]
                shapes[-1].append([getattr(part, "shape", torch.Size()) for part in seen])

            return hook

        with torch.no_grad():
            for rows in (1, 2):
                shapes.append([])
                part = apply(lambda x, rows=rows: x[:rows], inputs)  # type: ignore[misc]
                self._hooked(record, self.tensors(graph=False), part)
        if len(shapes[0]) != len(shapes[1]):
            raise NotCovered("a layer is called another number of times for another batch")
        seats = []
        for one, two in zip(*shapes, strict=True):
            x, y, *leaves = (_grown(a, b) for a, b in zip(one, two, strict=True))
            seats.append(_Seat(x, y, one[0], tuple(leaves)))
        return seats

    def _others(self, inputs: Inputs, u: Tensor) -> list[dict[str, Term]]:
        """Return the terms of parameters that belong to no layer, for each direction."""
        if self._rest is None:
            return [{}] * u.shape[1]
        rows = self._rest.in_chunks(inputs, u).to(self.dtype)
        slices = self._rest.space.slices.items()
        return [{name: Dense(each[:, s]) for name, s in slices} for each in rows.unbind(1)]

    def _terms(self, calls: Any, gradients: Any, n: int, others: dict[str, Term]) -> Terms:
        parts: dict[str, list[Term]] = defaultdict(list)
        for name, term in others.items():
            parts[name].append(term)
        space = self.space
        for (own, seen), gradient in zip(calls, gradients, strict=True):
            if gradient is None:
                continue
            call = seen._replace(gradient=gradient.movedim(seen.axis, 0))
            terms = explain(call, own, self.dtype)
            for local, name in own.items():
                if local not in terms:
                    raise NotCovered(f"no rule for {local} of {type(call.layer).__name__}")
                parts[name].append(terms[local])
        for name in space.names:
            if not parts[name]:
                zeros = torch.zeros(n, space.shapes[name].numel(), dtype=self.dtype)
                parts[name].append(Dense(zeros.to(space.device)))
        return [(space.slices[name], add(parts[name])) for name in space.names]


def _grown(one: torch.Size, two: torch.Size) -> int | None:
    """Return the first axis that is longer for two rows than for one."""
    if len(one) != len(two):
        raise NotCovered("a layer sees inputs of another number of axes for another batch")
    return next((axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)


def _copies(x: Tensor, n: int) -> Tensor:
    """Return one of x for each row; a first axis of length 1 is that of the rows."""
    return x.expand(n, *x.shape[1:]) if x.ndim > 1 and len(x) == 1 else x.expand(n, *x.shape)


class _Rowwise(Backend):
    """Gradients of a chunk of rows at a time, read and then let go."""

    def measure(self, inputs: Inputs, cotangents: Cotangents, read: Read) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            outputs = self.call(self.tensors(graph=False), inputs)
        u, stacked = directions(outputs, cotangents(outputs))
        r, slices = u.shape[1], self.space.slices.values()
        found = []
        for where in chunks(len(outputs), r * self.space.size):
            part = apply(lambda x, where=where: x[where], inputs)  # type: ignore[misc]
            gradients = self.gradients(part, u[where]).detach().to(self.dtype)
            each = [read([(s, Dense(gradients[:, j, s])) for s in slices]) for j in range(r)]
            found.append(torch.stack(each, 1) if stacked else each[0])
        return outputs, torch.cat(found)

    def in_chunks(self, inputs: Inputs, u: Tensor) -> Tensor:
        """Return the gradients (n, r, p) of all rows."""
        parts = []
        for where in chunks(len(u), u.shape[1] * self.space.size):
            part = apply(lambda x, where=where: x[where], inputs)  # type: ignore[misc]
            parts.append(self.gradients(part, u[where]).detach())
        return torch.cat(parts)

    @abstractmethod
    def gradients(self, inputs: Inputs, u: Tensor) -> Tensor:
        """Return the gradients (b, r, p) of a chunk."""


class Vmap(_Rowwise):
    """The vector-Jacobian product of one row, vectorised over rows and directions."""

    name = "vmap"

    def gradients(self, inputs: Inputs, u: Tensor) -> Tensor:
        tensors = self.tensors(graph=False)
        chosen = {name: tensors.pop(name) for name in self.space.names}

        def one(x: Inputs, v: Tensor) -> Tensor:
            row = apply(lambda part: part.unsqueeze(0), x)

            def output(selected: dict[str, Tensor]) -> Tensor:
                return self.call({**tensors, **selected}, row)[0]

            pullback = vjp(output, chosen)[1]
            result: Tensor = vmap(lambda w: self.space.flatten(pullback(w)[0]))(v)
            return result

        with without_vmap_notice():
            rows: Tensor = vmap(one, randomness="different")(inputs, u)
        return rows


class Loop(_Rowwise):
    """One row after the other: slow, and right for whatever autograd can differentiate."""

    name = "loop"

    def gradients(self, inputs: Inputs, u: Tensor) -> Tensor:
        tensors = self.tensors(graph=True)
        chosen = [tensors[name] for name in self.space.names]
        b, r = u.shape[0], u.shape[1]
        rows = torch.zeros(b, r, self.space.size, dtype=self.dtype, device=self.space.device)
        for i in range(b):
            row = apply(lambda part, i=i: part[i : i + 1], inputs)  # type: ignore[misc]
            with torch.enable_grad():
                output = self.call(tensors, row)
            if not output.requires_grad:
                continue
            for j in range(r):
                parts = torch.autograd.grad(
                    output,
                    chosen,
                    u[i : i + 1, j],
                    retain_graph=j < r - 1,
                    allow_unused=True,
                    materialize_grads=True,
                )
                dense = (p.to_dense() if p.is_sparse else p for p in parts)
                rows[i, j] = self.space.flatten(dict(zip(self.space.names, dense, strict=True)))
        return rows
