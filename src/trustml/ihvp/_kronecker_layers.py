"""Which parameters are factored: weights whose gradients are outer products, with their biases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core._terms import Outer, Scatter, Term, chunks
from trustml.ihvp.objective import Objective

_PROBE = 4  # rows


@dataclass(frozen=True)
class Layer:
    """A weight with gradients Σ_t (output gradient)(input)', and the bias of the same outputs.

    Attributes
    ----------
    names : tuple of str
        The weight, and the bias if there is one.
    place : int
        The weight's among the terms.
    swapped : bool
        The weight is kept as (inputs, outputs).
    where : Tensor of shape (g, o, m)
        Places in the flat vector, by groups; the last column is the bias.
    """

    names: tuple[str, ...]
    place: int
    swapped: bool
    where: Tensor

    @property
    def bias(self) -> bool:
        """Whether there is one."""
        return len(self.names) > 1

    def sides(self, terms: Terms) -> tuple[Tensor, Tensor]:
        """Return the inputs (n, g, t, i) and the outputs' gradients (n, g, t, o)."""
        return _sides(terms[self.place][1], self.swapped)


def _sides(term: Term, swapped: bool) -> tuple[Tensor, Tensor]:
    if not isinstance(term, Outer):
        raise TypeError(
            f"the gradients of a layer are outer products in one batch and {type(term).__name__} "
            "in another; call the layer in the same way for every row"
        )
    return (term.left, term.right) if swapped else (term.right, term.left)


def find_layers(objective: Objective) -> list[Layer]:
    """Look at the gradients of a few rows along two random directions."""
    space, n = objective.space, len(objective.data)
    rows = objective.data.subset(torch.linspace(0, n - 1, min(n, _PROBE)).long())
    seen: list[Terms] = []

    def two(outputs: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (len(outputs), 2, *outputs.shape[1:])
        return torch.randn(shape, generator=generator).to(outputs)

    def read(terms: Terms) -> Tensor:
        seen.append(terms)
        return terms[0][1].like.new_zeros(terms[0][1].n)

    objective.gradients.measure(rows.rows(0, len(rows)).inputs, two, read)
    one, other = seen[0], seen[-1]
    terms = {name: term for name, (_, term) in zip(space.names, one, strict=True)}
    layers = []
    for place, (name, (where, term)) in enumerate(zip(space.names, one, strict=True)):
        again = other[place][1]
        if not (isinstance(term, Outer) and isinstance(again, Outer)):
            continue
        # The inputs are the side that does not depend on the direction.
        left, right = torch.equal(term.left, again.left), torch.equal(term.right, again.right)
        if not (left or right):  # a weight that is used both ways round
            continue
        swapped = left and not right
        every = torch.arange(where.start, where.stop, device=space.device)
        places = every.reshape(term.g, term.o, term.i)
        places = places.mT if swapped else places
        head, _, tail = name.rpartition("weight")
        bias = head + "bias" + tail
        names: tuple[str, ...] = (name,)
        if bias in terms and _is_bias(terms[bias], _sides(term, swapped)[1]):
            own = space.slices[bias]
            column = torch.arange(own.start, own.stop, device=space.device)
            places = torch.cat([places, column.reshape(term.g, -1, 1)], dim=2)
            names = (name, bias)
        layers.append(Layer(names, place, swapped, places))
    return layers


def _is_bias(term: Term, gradients: Tensor) -> bool:
    """Return whether a parameter is added to the outputs that have these gradients."""
    summed = gradients.sum(2).reshape(len(gradients), -1)
    rows = term.rows()
    return rows.shape == summed.shape and torch.allclose(
        rows, summed, rtol=1e-3, atol=1e-5 * float(summed.abs().max())
    )


def squared_total(term: Term) -> Tensor:
    """Return the sum of the examples' squared gradients, (m,) in float64."""
    if isinstance(term, Scatter):
        n, _, d = term.left.shape
        example = torch.arange(n, device=term.left.device)[:, None]
        # What one example has for one entry of the table is added up before it is squared.
        entries = (example * term.table + term.indices).reshape(-1)
        keys, place = torch.unique(entries, return_inverse=True)
        added = term.left.new_zeros(len(keys), d)
        added.index_add_(0, place, term.left.reshape(-1, d))
        total = torch.zeros(term.table, d, dtype=torch.float64, device=term.left.device)
        total.index_add_(0, keys % term.table, added.double().square())
        return total.reshape(-1)
    parts = [term.part(s).rows().double().square().sum(0) for s in chunks(term.n, term.size)]
    return torch.stack(parts).sum(0)
