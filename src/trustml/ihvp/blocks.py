"""The block-diagonal part of a curvature: one dense block a layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from trustml.core import distributed
from trustml.ihvp.gauss_newton import GaussNewton
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import Damped, FactoredOperator, LinearOperator, leaves

# Bytes that all blocks together may take.
_BUDGET = 2**33


class BlockDiagonal(LinearOperator):
    """The blocks of a curvature that belong to one layer each, and nothing between layers.

    What K-FAC and EK-FAC approximate: no matrix of their family is better than this one.

    Parameters
    ----------
    curvature : Objective or LinearOperator
        An objective stands for its Gauss-Newton matrix. An operator must be the curvature of an
        objective, undamped or damped.

    Attributes
    ----------
    blocks : dict of str to (Tensor, Tensor)
        Places in the flat vector (m,), and the block (m, m) in float64, by the layer's name.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If the operator belongs to no single objective, or the blocks do not fit into memory.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Objective
    >>> module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> {name: len(block) for name, (_, block) in BlockDiagonal(J).blocks.items()}
    {'0': 9, '1': 4}
    """

    def __init__(self, curvature: Objective | LinearOperator) -> None:
        if isinstance(curvature, Objective):
            curvature = GaussNewton(curvature)
        if not isinstance(curvature, LinearOperator):
            raise TypeError(
                f"curvature must be an Objective or a LinearOperator, got "
                f"{type(curvature).__name__}"
            )
        self.objective = _objective(curvature)
        self.size, self.dtype, self.device = curvature.size, curvature.dtype, curvature.device
        self.is_psd = curvature.is_psd
        places = _layers(self.objective, self.device)
        needed = 8 * sum(len(where) ** 2 for where in places.values())
        if needed > _BUDGET:
            widest = max(places, key=lambda name: len(places[name]))
            raise ValueError(
                f"the dense blocks need {needed / 1e9:.1f} GB (the largest, of "
                f"{widest or 'the module'}, has {len(places[widest])} parameters); use ihvp.Ekfac, "
                "or restrict the objective to fewer parameters"
            )
        self.blocks = dict(zip(places, _blocks(curvature.double(), places), strict=True))

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        product = torch.empty_like(vectors)
        for where, block in self.blocks.values():
            product[where] = block.to(vectors.dtype) @ vectors[where]
        return product

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        matrix = torch.zeros(self.shape, dtype=torch.float64, device=self.device)
        for where, block in self.blocks.values():
            matrix[where[:, None], where] = block
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        entries = torch.empty(self.size, dtype=torch.float64, device=self.device)
        for where, block in self.blocks.values():
            entries[where] = block.diagonal()
        return entries.to(self.dtype)

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        twin = copy.copy(self)
        twin.dtype = torch.float64
        return twin


def _objective(operator: LinearOperator) -> Objective:
    found: dict[int, Objective] = {
        id(o): o for leaf in leaves(operator) if (o := getattr(leaf, "objective", None))
    }
    if len(found) != 1 or next(iter(found.values())).space.size != operator.size:
        raise ValueError(
            f"BlockDiagonal needs the curvature of one Objective, which names the layers, got "
            f"{operator!r}"
        )
    return next(iter(found.values()))


def _layers(objective: Objective, device: torch.device) -> dict[str, Tensor]:
    """Return the places of each module's own parameters."""
    places: dict[str, list[Tensor]] = {}
    for name, where in objective.space.slices.items():
        own = torch.arange(where.start, where.stop, device=device)
        places.setdefault(name.rpartition(".")[0], []).append(own)
    return {name: torch.cat(parts) for name, parts in places.items()}


def _blocks(operator: LinearOperator, places: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each block in float64; for a sum of factors from one pass over them."""
    if isinstance(operator, Damped):
        for where, block in _blocks(operator.inner, places):
            block.diagonal().add_(operator.damping)
            yield where, block
        return
    if not isinstance(operator, FactoredOperator):
        for where in places.values():
            yield where, operator.restrict(where).dense()
        return
    examples = distributed.shard(operator.n_examples)

    def own() -> Tensor:
        totals = [
            torch.zeros(len(w), len(w), dtype=torch.float64, device=w.device)
            for w in places.values()
        ]
        for _, factor in operator.factors(examples):
            rows = factor.reshape(-1, operator.size).double()
            for total, where in zip(totals, places.values(), strict=True):
                part = rows[:, where]
                total.addmm_(part.T, part)
        return torch.cat([total.reshape(-1) for total in totals])

    squares = torch.split(distributed.all_sum(own), [len(w) ** 2 for w in places.values()])
    for square, where in zip(squares, places.values(), strict=True):
        total = square.reshape(len(where), len(where))
        block = operator.scale * (total + total.T) / 2
        block.diagonal().add_(operator.shift.double()[where])
        yield where, block
