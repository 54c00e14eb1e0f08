"""Per-example gradients of one parameter in factored form: rows, products, norms.

A term knows the gradients of n examples with respect to one parameter of m entries, without
holding the n x m numbers unless it is asked for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_BUDGET = 2**24  # numbers that an intermediate may hold: 64 MiB in float32
_CACHE = 2**20  # numbers of one that is better made again than sent to memory


def ranges(n: int, step: int) -> Iterator[slice]:
    """Yield slices of ``step`` that cover n."""
    for start in range(0, n, max(1, step)):
        yield slice(start, min(start + max(1, step), n))


def chunks(n: int, per_row: int) -> Iterator[slice]:
    """Yield slices of rows whose intermediates stay within the budget."""
    return ranges(n, _BUDGET // max(1, per_row))


class Term(ABC):
    """Gradients of n examples with respect to one parameter of ``size`` entries."""

    n: int
    size: int
    like: Tensor  # of the gradients' dtype, on their device

    def rows(self) -> Tensor:
        """Return the gradients, (n, m)."""
        out = self.like.new_empty(self.n, self.size)
        self.write(out)
        return out

    @abstractmethod
    def write(self, out: Tensor) -> None:
        """Write the gradients into ``out`` (n, m), columns of a contiguous matrix."""

    @abstractmethod
    def dot(self, vectors: Tensor) -> Tensor:
        """Return the gradients times ``vectors`` (m, k), as (n, k)."""

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """Return the squared norms, (n,)."""

    @abstractmethod
    def sandwich(self, first: Tensor, second: Tensor) -> Tensor:
        """Return ``first' G second`` of the gradients G as (a, b) matrices, (n, j, k).

        ``first`` is (a, j) and ``second`` (b, k), a b = m.
        """

    @abstractmethod
    def part(self, where: slice) -> Term:
        """Return the term of some of the examples."""

    @abstractmethod
    def pieces(self, width: int) -> Iterator[tuple[slice, Term]]:
        """Yield terms of about ``width`` entries of the parameter that add up to this one."""

    def gram(self, other: Term) -> Tensor:
        """Return the inner products with the m examples of another term, (n, m)."""
        if isinstance(other, Sum):
            return torch.stack([self.gram(term) for term in other.terms]).sum(0)
        return self._gram(other)

    def _gram(self, other: Term) -> Tensor:
        """Multiply with the other's rows, some at a time."""
        parts = [self.dot(other.part(s).rows().mT) for s in chunks(other.n, self.size)]
        return torch.cat(parts, dim=1)


class Dense(Term):
    """Gradients held as they are; right for biases and norm layers."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = self.like = gradients
        self.n, self.size = gradients.shape

    def rows(self) -> Tensor:
        return self.gradients

    def write(self, out: Tensor) -> None:
        out.copy_(self.gradients)

    def dot(self, vectors: Tensor) -> Tensor:
        return self.gradients @ vectors

    def squared_norm(self) -> Tensor:
        return self.gradients.square().sum(1)

    def sandwich(self, first: Tensor, second: Tensor) -> Tensor:
        cube = self.gradients.reshape(self.n, len(first), len(second))
        return first.mT @ (cube @ second)

    def part(self, where: slice) -> Dense:
        return Dense(self.gradients[where])

    def pieces(self, width: int) -> Iterator[tuple[slice, Term]]:
        for where in ranges(self.size, width):
            yield where, Dense(self.gradients[:, where])

    def _gram(self, other: Term) -> Tensor:
        return other.dot(self.gradients.mT).mT


class Outer(Term):
    """Sums over t positions of outer products, in g groups: ``Σ_t left_t right_t'``.

    ``left`` (n, g, t, o) are gradients of a layer's outputs, ``right`` (n, g, t, i) its inputs;
    the parameter is (g o, i).
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right, self.like = left, right, left
        self.n, self.g, self.t, self.o = left.shape
        self.i = right.shape[-1]
        self.size = self.g * self.o * self.i

    def write(self, out: Tensor) -> None:
        for j in range(self.g):
            block = out[:, j * self.o * self.i : (j + 1) * self.o * self.i]
            torch.bmm(self.left[:, j].mT, self.right[:, j], out=block.view(self.n, self.o, self.i))

    def part(self, where: slice) -> Outer:
        return Outer(self.left[where], self.right[where])

    def dot(self, vectors: Tensor) -> Tensor:
        k = vectors.shape[1]
        g, t, o, i = self.g, self.t, self.o, self.i
        # Multiplications an example: gradients first, or the vectors through the layer.
        if o * i * (t + k) < t * k * (o * i + min(o, i)):
            total = self.left.new_zeros(self.n, k)
            for where, piece in self.pieces(_CACHE // self.n):
                total.addmm_(piece.rows(), vectors[where])
            return total
        cube = vectors.reshape(g, o, i, k)
        parts = [self.part(s)._through(cube) for s in chunks(self.n, g * t * k * min(o, i))]
        return torch.cat(parts)

    def _through(self, cube: Tensor) -> Tensor:
        """Contract the longer side first; ``cube`` is (g, o, i, k)."""
        if self.o < self.i:
            folded = self.right.transpose(0, 1).reshape(self.g, 1, -1, self.i) @ cube
            folded = folded.reshape(self.g, self.o, self.n, self.t, -1)
            return torch.einsum("gontk,ngto->nk", folded, self.left)
        folded = self.left.transpose(0, 1).reshape(self.g, -1, self.o) @ cube.flatten(2)
        folded = folded.reshape(self.g, self.n, self.t, self.i, -1)
        return torch.einsum("gntik,ngti->nk", folded, self.right)

    def squared_norm(self) -> Tensor:
        if self.t == 1:
            sides = self.left.square().sum(-1) * self.right.square().sum(-1)
            return sides.sum((1, 2))
        if self.t * (self.o + self.i) < self.o * self.i:
            parts = [self.part(s)._gram_norm() for s in chunks(self.n, self.g * self.t**2)]
        else:
            sizes = chunks(self.n, self.size)
            parts = [self.part(s).rows().square().sum(1) for s in sizes]
        return torch.cat(parts)

    def sandwich(self, first: Tensor, second: Tensor) -> Tensor:
        blocks = first.reshape(self.g, self.o, -1)
        parts = [
            (self.left[s] @ blocks).flatten(1, 2).mT @ (self.right[s] @ second).flatten(1, 2)
            for s in chunks(self.n, self.g * self.t * (first.shape[1] + second.shape[1]))
        ]
        return torch.cat(parts)

    def pieces(self, width: int) -> Iterator[tuple[slice, Term]]:
        unit = self.o * self.i
        groups = ranges(self.g, max(1, width // unit))
        units = self.o if unit <= width else width // self.i
        for group in groups:
            left, right = self.left[:, group], self.right[:, group]
            for where in ranges(self.o, units):
                start = group.start * unit + where.start * self.i
                piece = Outer(left[..., where], right)
                yield slice(start, start + piece.g * piece.o * self.i), piece

    def _gram(self, other: Term) -> Tensor:
        if not isinstance(other, Outer) or self.g != other.g:
            return super()._gram(other)
        n, m, t, s, o, i = self.n, other.n, self.t, other.t, self.o, self.i
        # Multiplications a group: rows of the other times this term, or sides with sides.
        dense = m * s * o * i + n * min(o * i * (t + m), t * m * (o * i + min(o, i)))
        if dense < n * m * t * s * (o + i):
            return super()._gram(other)
        step = max(1, _BUDGET // (self.g * m * t * s))
        inner = max(1, _BUDGET // (self.g * step * t * s))
        parts = [
            torch.cat([self.part(a)._sides(other.part(b)) for b in ranges(m, inner)], 1)
            for a in ranges(n, step)
        ]
        return torch.cat(parts)

    def _sides(self, other: Outer) -> Tensor:
        """Return Σ_g Σ_ts (left_t · left_s)(right_t · right_s)."""
        n, m = self.n, other.n
        products = _crossed(self.left, other.left).mul_(_crossed(self.right, other.right))
        return products.reshape(self.g, n, self.t, m, other.t).sum((0, 2, 4))

    def _gram_norm(self) -> Tensor:
        gram = (self.left @ self.left.mT) * (self.right @ self.right.mT)
        return gram.sum((1, 2, 3)).clamp_min(0)


def _crossed(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner products of all positions of all examples, (g, n t, m s)."""
    g, width = one.shape[1], one.shape[-1]
    first = one.transpose(0, 1).reshape(g, -1, width)
    return first @ other.transpose(0, 1).reshape(g, -1, width).mT


class Scatter(Term):
    """Gradients of a table of which each example read a few rows: (n, t) indices, (n, t, d)."""

    def __init__(self, indices: Tensor, left: Tensor, table: int) -> None:
        self.indices, self.left, self.table = indices, left, table
        self.n, self.size, self.like = len(left), table * left.shape[-1], left

    def write(self, out: Tensor) -> None:
        n, t, d = self.left.shape
        example = torch.arange(n, device=out.device)[:, None].expand(n, t)
        cube = out.zero_().view(n, self.table, d)
        cube.index_put_((example, self.indices), self.left, accumulate=True)

    def dot(self, vectors: Tensor) -> Tensor:
        n, t, d = self.left.shape
        if self.table <= 4 * t and n * self.size <= _BUDGET:
            return self.rows() @ vectors
        # A bag of the vectors' rows, weighted by the entries of ``left``.
        within = torch.arange(d, device=self.left.device)
        places = (self.indices[..., None] * d + within).reshape(n, -1)
        weights = self.left.reshape(n, -1)
        return F.embedding_bag(places, vectors, mode="sum", per_sample_weights=weights)

    def squared_norm(self) -> Tensor:
        parts = []
        for s in chunks(len(self.left), self.left.shape[1] ** 2):
            same = self.indices[s][:, :, None] == self.indices[s][:, None, :]
            gram = (self.left[s] @ self.left[s].mT).masked_fill(~same, 0)
            parts.append(gram.sum((1, 2)).clamp_min(0))
        return torch.cat(parts)

    def sandwich(self, first: Tensor, second: Tensor) -> Tensor:
        return first[self.indices].mT @ (self.left @ second)

    def part(self, where: slice) -> Scatter:
        return Scatter(self.indices[where], self.left[where], self.table)

    def pieces(self, width: int) -> Iterator[tuple[slice, Term]]:
        d = self.left.shape[-1]
        for where in ranges(self.table, width // d):
            inside = (self.indices >= where.start) & (self.indices < where.stop)
            indices = (self.indices - where.start).masked_fill(~inside, 0)
            left = self.left.masked_fill(~inside[..., None], 0)
            piece = Scatter(indices, left, where.stop - where.start)
            yield slice(where.start * d, where.stop * d), piece

    def _gram(self, other: Term) -> Tensor:
        if not isinstance(other, Scatter):
            return super()._gram(other)
        t, s, d = self.left.shape[1], other.left.shape[1], self.left.shape[2]
        if t * s > self.table:
            return super()._gram(other)
        keys, right = other.indices.reshape(-1), other.left.reshape(-1, d)
        parts = []
        for a in chunks(self.n, t * len(keys)):
            same = self.indices[a].reshape(-1, 1) == keys
            products = (self.left[a].reshape(-1, d) @ right.mT).masked_fill(~same, 0)
            parts.append(products.reshape(-1, t, other.n, s).sum((1, 3)))
        return torch.cat(parts)


class Sum(Term):
    """The terms of a parameter that is used several times."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = terms
        self.n, self.size, self.like = terms[0].n, terms[0].size, terms[0].like

    def write(self, out: Tensor) -> None:
        self.terms[0].write(out)
        for term in self.terms[1:]:
            out += term.rows()

    def dot(self, vectors: Tensor) -> Tensor:
        return torch.stack([term.dot(vectors) for term in self.terms]).sum(0)

    def squared_norm(self) -> Tensor:
        parts = [self.part(s).rows().square().sum(1) for s in chunks(self.n, self.size)]
        return torch.cat(parts)

    def sandwich(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([term.sandwich(first, second) for term in self.terms]).sum(0)

    def part(self, where: slice) -> Sum:
        return Sum([term.part(where) for term in self.terms])

    def pieces(self, width: int) -> Iterator[tuple[slice, Term]]:
        for term in self.terms:
            yield from term.pieces(width)

    def _gram(self, other: Term) -> Tensor:
        return torch.stack([term.gram(other) for term in self.terms]).sum(0)


def add(terms: Sequence[Term]) -> Term:
    """Return the sum of terms of one parameter, factored where that is possible."""
    if len(terms) == 1:
        return terms[0]
    outer = [term for term in terms if isinstance(term, Outer)]
    if len(outer) == len(terms) and len({term.g for term in outer}) == 1:
        left = torch.cat([term.left for term in outer], dim=2)
        return Outer(left, torch.cat([term.right for term in outer], dim=2))
    tables = [term for term in terms if isinstance(term, Scatter)]
    if len(tables) == len(terms):
        indices = torch.cat([term.indices for term in tables], dim=1)
        return Scatter(indices, torch.cat([term.left for term in tables], dim=1), tables[0].table)
    return Sum(terms)
