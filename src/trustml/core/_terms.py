"""Per-example gradients of one parameter in factored form: rows, products, norms.

A term knows the gradients of n examples with respect to one parameter of m entries, without
holding the n x m numbers unless it is asked for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_BUDGET = 2**24  # numbers that an intermediate may hold: 64 MiB in float32


def chunks(n: int, per_row: int) -> Iterator[slice]:
    """Yield slices of rows whose intermediates stay within the budget."""
    step = max(1, _BUDGET // max(1, per_row))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


class Term(ABC):
    """Gradients of n examples with respect to one parameter."""

    @abstractmethod
    def rows(self) -> Tensor:
        """Return the gradients, (n, m)."""

    @abstractmethod
    def dot(self, vectors: Tensor) -> Tensor:
        """Return the gradients times ``vectors`` (m, k), as (n, k)."""

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """Return the squared norms, (n,)."""


class Dense(Term):
    """Gradients held as they are; right for biases and norm layers."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    def rows(self) -> Tensor:
        return self.gradients

    def dot(self, vectors: Tensor) -> Tensor:
        return self.gradients @ vectors

    def squared_norm(self) -> Tensor:
        return self.gradients.square().sum(1)


class Outer(Term):
    """Sums over t positions of outer products, in g groups: ``Σ_t left_t right_t'``.

    ``left`` (n, g, t, o) are gradients of a layer's outputs, ``right`` (n, g, t, i) its inputs;
    the parameter is (g o, i).
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        self.n, self.g, self.t, self.o = left.shape
        self.i = right.shape[-1]

    def rows(self) -> Tensor:
        return (self.left.mT @ self.right).reshape(self.n, -1)

    def part(self, where: slice) -> Outer:
        """Return the term of some of the examples."""
        return Outer(self.left[where], self.right[where])

    def dot(self, vectors: Tensor) -> Tensor:
        k = vectors.shape[1]
        g, t, o, i = self.g, self.t, self.o, self.i
        # Multiplications an example: gradients first, or the vectors through the layer.
        if g * o * i * (t + k) < g * t * k * (o * i + min(o, i)):
            parts = [self.part(s).rows() @ vectors for s in chunks(self.n, g * o * i)]
        else:
            cube = vectors.reshape(g, o, i, k)
            if o < i:
                cube = cube.permute(0, 2, 1, 3).contiguous()
            parts = [self.part(s)._through(cube) for s in chunks(self.n, g * t * k * min(o, i))]
        return torch.cat(parts)

    def _through(self, cube: Tensor) -> Tensor:
        """Contract the longer side first; ``cube`` is (g, longer, shorter, k)."""
        first, second = (self.right, self.left) if self.o < self.i else (self.left, self.right)
        g, longer, shorter, k = cube.shape
        folded = first.transpose(0, 1).reshape(g, -1, longer) @ cube.reshape(g, longer, -1)
        folded = folded.reshape(g, self.n, self.t, shorter, k)
        return torch.einsum("gntsk,ngts->nk", folded, second)

    def squared_norm(self) -> Tensor:
        if self.t == 1:
            sides = self.left.square().sum(-1) * self.right.square().sum(-1)
            return sides.sum((1, 2))
        if self.t * (self.o + self.i) < self.o * self.i:
            parts = [self.part(s)._gram_norm() for s in chunks(self.n, self.g * self.t**2)]
        else:
            sizes = chunks(self.n, self.g * self.o * self.i)
            parts = [self.part(s).rows().square().sum(1) for s in sizes]
        return torch.cat(parts)

    def _gram_norm(self) -> Tensor:
        gram = (self.left @ self.left.mT) * (self.right @ self.right.mT)
        return gram.sum((1, 2, 3)).clamp_min(0)


class Scatter(Term):
    """Gradients of a table of which each example read a few rows: (n, t) indices, (n, t, d)."""

    def __init__(self, indices: Tensor, left: Tensor, table: int) -> None:
        self.indices, self.left, self.table = indices, left, table

    def rows(self) -> Tensor:
        n, t, d = self.left.shape
        out = self.left.new_zeros(n, self.table, d)
        example = torch.arange(n, device=self.left.device)[:, None].expand(n, t)
        out.index_put_((example, self.indices), self.left, accumulate=True)
        return out.reshape(n, -1)

    def dot(self, vectors: Tensor) -> Tensor:
        n, t, d = self.left.shape
        cube = vectors.reshape(self.table, d, -1)
        parts = [
            torch.einsum("ntd,ntdk->nk", self.left[s], cube[self.indices[s]])
            for s in chunks(n, t * d * cube.shape[-1])
        ]
        return torch.cat(parts)

    def squared_norm(self) -> Tensor:
        parts = []
        for s in chunks(len(self.left), self.left.shape[1] ** 2):
            same = self.indices[s][:, :, None] == self.indices[s][:, None, :]
            gram = (self.left[s] @ self.left[s].mT).masked_fill(~same, 0)
            parts.append(gram.sum((1, 2)).clamp_min(0))
        return torch.cat(parts)


class Sum(Term):
    """The terms of a parameter that is used several times."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = terms

    def rows(self) -> Tensor:
        return torch.stack([term.rows() for term in self.terms]).sum(0)

    def dot(self, vectors: Tensor) -> Tensor:
        return torch.stack([term.dot(vectors) for term in self.terms]).sum(0)

    def squared_norm(self) -> Tensor:
        return self.rows().square().sum(1)


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
