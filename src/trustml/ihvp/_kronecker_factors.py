"""The passes over the data behind K-FAC and EK-FAC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core._terms import chunks
from trustml.core.batches import Batch
from trustml.core.memory import check_fits
from trustml.ihvp._fisher_roots import FisherRoots
from trustml.ihvp._kronecker_layers import Layer, find_layers, squared_total
from trustml.ihvp.objective import Objective

Shared = Literal["expand", "reduce"]

# What the first pass sees is kept for the second if all rows need no more numbers than this:
# 64 MiB in float32.
_KEPT = 2**24


class _Seen:
    """One batch: each layer's inputs, and the gradients of its outputs by direction."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.inputs: list[Tensor] = []
        self.gradients: list[list[Tensor]] = []

    def read(self, terms: Terms) -> list[Tensor]:
        """Return one direction's gradients, layer by layer; note the inputs at the first."""
        sides = [layer.sides(terms) for layer in self.layers]
        if not self.inputs:
            self.inputs = [inputs for inputs, _ in sides]
        return [gradients for _, gradients in sides]


class KroneckerFactors:
    """Second moments of every layer's inputs and output gradients, and eigenvalues in a basis.

    Attributes
    ----------
    layers : list of Layer
        What is factored.
    uncovered : tuple of str
        The other parameters.
    rest : Tensor of shape (q,)
        Their places in the flat vector.
    """

    def __init__(
        self, objective: Objective, roots: FisherRoots, shared: Shared, keep: bool
    ) -> None:
        self.objective, self.roots, self.shared = objective, roots, shared
        self.layers = find_layers(objective)
        space = objective.space
        squares = sum(g * (m * m + o * o) for g, o, m in (x.where.shape for x in self.layers))
        check_fits(
            24 * squares,  # sums, their mean, eigenvectors: float64
            f"the Kronecker factors of {len(self.layers)} layers",
            'use curvature="diagonal", or fewer layers (parameters=)',
            space.device,
        )
        covered = {name for layer in self.layers for name in layer.names}
        self.uncovered = tuple(name for name in space.names if name not in covered)
        self._others = [space.names.index(name) for name in self.uncovered]
        every = torch.arange(space.size, device=space.device)
        parts = [every[space.slices[name]] for name in self.uncovered]
        self.rest = torch.cat(parts) if parts else every[:0]
        self._room = _KEPT // len(objective.data) if keep else 0
        self._kept: dict[tuple[int, int], _Seen] = {}

    def moments(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return (inputs' (g, m, m), gradients' (g, o, o)) of each layer; the rest's diagonal."""
        reduce = self.shared == "reduce"

        def part(batch: Batch) -> Tensor:
            seen = _Seen(self.layers)
            outer: list[Tensor] = []
            diagonal = torch.zeros(len(self.rest), dtype=torch.float64, device=self.rest.device)

            def read(terms: Terms) -> Tensor:
                gradients = seen.read(terms)
                found = [_moment(g.sum(2, True) if reduce else g).double() for g in gradients]
                outer[:] = [a + b for a, b in zip(outer, found, strict=True)] if outer else found
                if self._fits(seen.inputs, gradients):
                    seen.gradients.append(gradients)
                if self._others:
                    diagonal.add_(torch.cat([squared_total(terms[j][1]) for j in self._others]))
                return _nothing(terms)

            self.objective.gradients.measure(batch.inputs, self.roots(batch), read)
            inputs = [a.mean(2, keepdim=True) if reduce else a for a in seen.inputs]
            inner = [_moment(a, layer.bias) for a, layer in zip(inputs, self.layers, strict=True)]
            counts = diagonal.new_tensor([a.shape[0] * a.shape[2] for a in inputs])
            if seen.gradients:
                self._kept[_key(batch)] = seen
            return torch.cat([x.double().reshape(-1) for x in (*inner, *outer, counts, diagonal)])

        total = self.objective.total(part)
        sizes = [layer.where.shape for layer in self.layers]
        shapes = [(g, m, m) for g, _, m in sizes] + [(g, o, o) for g, o, _ in sizes]
        *found, rest = _cut(total, [*shapes, (len(sizes),)])
        k = len(sizes)
        pairs = [
            (a / count, b / self.objective.n)
            for a, b, count in zip(found[:k], found[k : 2 * k], found[2 * k], strict=True)
        ]
        return pairs, rest / self.objective.n

    def corrected(self, bases: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return second moments (g, o, m) of each layer's gradients along the eigenvectors."""
        dtype = self.objective.gradients.dtype
        bases = [(q_in.to(dtype), q_out.to(dtype)) for q_in, q_out in bases]

        def part(batch: Batch) -> Tensor:
            sums = [
                _Squares(*basis, layer.bias)
                for basis, layer in zip(bases, self.layers, strict=True)
            ]

            def note(inputs: list[Tensor], gradients: list[Tensor]) -> None:
                for one, a, g in zip(sums, inputs, gradients, strict=True):
                    one.add(a, g)

            def read(terms: Terms) -> Tensor:
                gradients = seen.read(terms)
                note(seen.inputs, gradients)
                return _nothing(terms)

            kept = self._kept.pop(_key(batch), None)
            if kept is None:
                seen = _Seen(self.layers)
                self.objective.gradients.measure(batch.inputs, self.roots(batch), read)
            else:
                for gradients in kept.gradients:
                    note(kept.inputs, gradients)
            return torch.cat([one.total().double().reshape(-1) for one in sums])

        total = self.objective.total(part) / self.objective.n
        return list(_cut(total, [layer.where.shape for layer in self.layers]))[:-1]

    def _fits(self, inputs: list[Tensor], gradients: list[Tensor]) -> bool:
        """Whether all directions of all rows may be kept; the same for every batch."""
        a_row = sum(x[:1].numel() for x in inputs)
        return a_row + self.roots.rank * sum(x[:1].numel() for x in gradients) <= self._room


class _Squares:
    """Σ over examples and directions of (Q_o' G Q_m)², for one batch."""

    def __init__(self, inner: Tensor, outer: Tensor, bias: bool) -> None:
        self._inner, self._outer = (inner[:, :-1], outer) if bias else (inner, outer)
        self._bias = inner[:, -1] if bias else None  # what the appended 1 is turned to
        self._sum: Tensor | None = None
        self._gradients: Tensor | None = None
        self._inputs: Tensor | None = None

    def add(self, inputs: Tensor, gradients: Tensor) -> None:
        """Add one direction: inputs (n, g, t, i), gradients (n, g, t, o)."""
        t = inputs.shape[2]
        if t == 1:  # a square of products is a product of squares: one matrix product a batch
            squares = _turn(gradients, self._outer)[:, :, 0].square()
            self._gradients = squares if self._gradients is None else self._gradients + squares
            self._inputs = inputs
            return
        per_row = inputs.shape[1] * self._outer.shape[-1] * self._inner.shape[-1]
        for s in chunks(len(inputs), per_row + inputs[:1].numel()):
            found = self._turned(inputs[s], gradients[s]).square_().sum(0)
            self._sum = found if self._sum is None else self._sum + found

    def _turned(self, a: Tensor, g: Tensor) -> Tensor:
        """Return each example's gradient in the eigenbasis, (n, g, o, m), the cheapest way."""
        t, i, o = a.shape[2], a.shape[3], g.shape[3]
        early = t <= i
        if early:
            g = _turn(g, self._outer)
        if t <= o:
            rows = g.mT @ self._with_bias(_turn(a, self._inner))
        else:
            rows = _turn(g.mT @ a, self._inner)
            if self._bias is not None:
                rows += g.sum(2)[..., None] * self._bias[:, None, :]
        return rows if early else self._outer.mT @ rows

    def _with_bias(self, turned: Tensor) -> Tensor:
        return turned if self._bias is None else turned + self._bias[:, None, :]

    def total(self) -> Tensor:
        """Return the sum, (g, o, m)."""
        if self._gradients is not None and self._inputs is not None:
            inputs = self._with_bias(_turn(self._inputs, self._inner))[:, :, 0].square()
            return self._gradients.permute(1, 2, 0) @ inputs.transpose(0, 1)
        if self._sum is None:
            raise RuntimeError("no direction was added")
        return self._sum


def _turn(x: Tensor, basis: Tensor) -> Tensor:
    """Return (n, g, t, d) times (g, d, e), as one matrix product a group."""
    n, g, t, d = x.shape
    flat = x.transpose(0, 1).reshape(g, n * t, d) @ basis
    return flat.reshape(g, n, t, -1).transpose(0, 1)


def _moment(x: Tensor, bias: bool = False) -> Tensor:
    """Return Σ x x' over examples and positions, (g, d, d); with a 1 appended for a bias."""
    n, g, t, d = x.shape
    if t == 1:
        rows = x[:, :, 0].transpose(0, 1)
        moment = rows.mT @ rows
    else:  # example by example: sides that are views of another layout need no copy
        zeros = x.new_zeros(d, d)
        moment = torch.stack([torch.addbmm(zeros, x[:, j].mT, x[:, j]) for j in range(g)])
    if not bias:
        return moment
    bordered = x.new_empty(g, d + 1, d + 1)
    bordered[:, :d, :d] = moment
    bordered[:, d, :d] = bordered[:, :d, d] = x.sum((0, 2))
    bordered[:, d, d] = n * t
    return bordered


def _cut(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
    """Yield tensors of these shapes from a flat one, then what is left."""
    start = 0
    for shape in shapes:
        size = torch.Size(shape).numel()
        yield flat[start : start + size].reshape(shape)
        start += size
    yield flat[start:]


def _key(batch: Batch) -> tuple[int, int]:
    return int(batch.indices[0]), len(batch)


def _nothing(terms: Terms) -> Tensor:
    """Return what a reader returns that only adds up."""
    return terms[0][1].like.new_zeros(terms[0][1].n)
