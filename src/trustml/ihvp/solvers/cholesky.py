"""The direct solve: assemble the matrix in float64 and factorise it once."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.solvers.base import Applied, Factorization
from trustml.ihvp.solvers.spectral import SpectralFactor


class CholeskyFactorization(Factorization):
    """Cholesky in float64; an eigendecomposition where the matrix is indefinite or deficient.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included.
    tol : float
        The relative residual that counts as converged.
    reason : str
        Why this method.
    """

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self._exact = operator.double()
        matrix = self._exact.dense()
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(
                "the operator's matrix has NaN or infinite entries; check the model's outputs and "
                "loss on its training data"
            )
        self.operator, self.tol = operator, tol
        self.method, self.method_reason = "cholesky", reason
        self._factor = SpectralFactor((matrix + matrix.T) / 2)

    def _apply(self, b: Tensor) -> Applied:
        return Applied(self._factor.solve(b), 0, self._factor.status, self._factor.min_ritz)

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return self._factor.quadratic_form(b)

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        return self._factor.logdet()

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        return self._factor.trace()
