"""The inverse of a block-diagonal matrix, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.ihvp.blocks import BlockDiagonal
from trustml.ihvp.operators import Damped, LinearOperator, Scaled, total_damping
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization
from trustml.ihvp.solvers.spectral import SpectralFactor


def as_blocks(operator: LinearOperator) -> tuple[BlockDiagonal, float] | None:
    """Read an expression as c · BlockDiagonal, damped; None if it is something else."""
    if isinstance(operator, BlockDiagonal):
        return operator, 1.0
    if isinstance(operator, Damped):
        return as_blocks(operator.inner)
    if isinstance(operator, Scaled):
        found = as_blocks(operator.inner)
        return None if found is None else (found[0], found[1] * operator.factor)
    return None


class BlockFactorization(Factorization):
    """A dense factorisation of each layer's block in float64.

    Parameters
    ----------
    operator : LinearOperator
        A BlockDiagonal, damping included. For another curvature of an objective the inverse of its
        blocks is applied, and the residual is that of the whole matrix.
    tol : float
        The relative residual that counts as converged.
    reason : str
        Why this method.
    """

    trust = (
        "What couples the layers is left out: where the matrix asked about has it, the residual "
        "is the mistake, and a BlockDiagonal's residual says nothing of it"
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.operator, self.tol, self.method = operator, tol, "blocks"
        found = as_blocks(operator)
        if found is None:
            (blocks, scale), damping = (BlockDiagonal(operator), 1.0), 0.0
            told = "the inverse of the layers' blocks, without what is between layers"
        else:
            (blocks, scale), damping = found, total_damping(operator)[0]
            told = "each layer's block; what is between layers is not in the matrix"
        self.method_reason = f"{reason}: {told}"
        self._exact = operator.double()
        self._factors: list[tuple[Tensor, SpectralFactor]] = []
        for where, block in blocks.blocks.values():
            if not bool(torch.isfinite(block).all()):
                raise ValueError(NOT_FINITE)
            matrix = scale * block
            matrix.diagonal().add_(damping)
            self._factors.append((where, SpectralFactor(matrix)))
        statuses = {factor.status for _, factor in self._factors}
        self._status = Status.APPROXIMATE if found is None else Status.CONVERGED
        for status in (Status.RANK_DEFICIENT, Status.INDEFINITE):
            self._status = status if status in statuses else self._status
        self._min = min(factor.min_ritz for _, factor in self._factors)

    def _apply(self, b: Tensor) -> Applied:
        x = torch.empty_like(b)
        for where, factor in self._factors:
            x[where] = factor.solve(b[where])
        return Applied(x, 0, self._status, self._min)

    def _product(self, x: Tensor) -> Tensor:
        return self._exact.matmat(x.to(self._exact.dtype)).double()

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return torch.stack([f.quadratic_form(b[where]) for where, f in self._factors]).sum(0)

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        return sum(factor.logdet() for _, factor in self._factors)

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        return sum(factor.trace() for _, factor in self._factors)
