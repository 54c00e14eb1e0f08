"""What the low-rank solvers share: K'K + diag(d) inverted exactly, judged by the operator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trustml.ihvp.lowrank import LowRankApproximation
from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization
from trustml.ihvp.solvers.dual import DualFactorization, why_not_dual

# Bytes that the factor may hold; the rank is bounded by it and by this number.
_MEMORY, _LARGEST_RANK = 2**28, 2000


class LowRankFactorization(Factorization):
    """The exact inverse of a low-rank approximation of A with its complement.

    The known diagonal of A (damping, weight decay) is kept, so that the inverse is 1/d outside the
    low-rank part and not 0. The rank doubles until the eigenvalues left out are below tol times
    the smallest diagonal entry; it is exact where the rank reaches p. The residual of every answer
    is that of A itself: where it is above the tolerance, the rank was too small. ``logdet`` and
    ``trace`` are the approximation's.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included; positive semi-definite.
    tol : float
        The relative residual that counts as converged.
    max_iterations : int or None
        The largest rank; None means 2000, or what fits into 256 MiB.
    reason : str
        Why this method.

    Raises
    ------
    ValueError
        If the operator has no diagonal that makes its complement invertible.
    """

    kind: ClassVar[str]

    trust = (
        "The inverse is that of a low-rank approximation and its complement: the residual, by the "
        "matrix itself, is the mistake that this makes, and a larger rank reduces it"
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.operator, self.tol = operator, tol
        room = max(1, min(_LARGEST_RANK, _MEMORY // (24 * operator.size)))
        self.approximation = LowRankApproximation.adaptive(
            operator, min(max_iterations or room, operator.size), self.kind, tol
        )
        refusal = why_not_dual(self.approximation)
        if refusal is not None:
            raise ValueError(f'method "{self.kind}" cannot solve this operator: {refusal}')
        self._inverse = DualFactorization(self.approximation, tol)
        self.method = self.kind
        self._complete = self.approximation.rank >= operator.size
        self.method_reason = f"{reason}; {self.approximation.told()}"

    def _apply(self, b: Tensor) -> Applied:
        found = self._inverse._apply(b)
        status = found.status
        if status is Status.CONVERGED and not self._complete:
            status = Status.APPROXIMATE
        return Applied(found.x, 0, status, found.min_ritz)

    def _product(self, x: Tensor) -> Tensor:
        product = self.operator.matmat(x.to(self.operator.dtype)).double()
        if not bool(torch.isfinite(product).all()):
            raise ValueError(NOT_FINITE)
        return product

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return (b * self._apply(b).x).sum(dim=0)

    def logdet(self) -> float:
        """Return the log-determinant of the approximation."""
        return self._inverse.logdet()

    def trace(self) -> float:
        """Return the trace of the approximation's inverse."""
        return self._inverse.trace()
