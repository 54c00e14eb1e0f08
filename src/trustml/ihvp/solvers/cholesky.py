"""The direct solve: assemble the matrix in float64 and factorise it once."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.ihvp.matrices import rounded_entries
from trustml.ihvp.operators import LinearOperator, total_damping
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization, verify
from trustml.ihvp.solvers.spectral import RANK_TOLERANCE, SpectralFactor


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

    trust = (
        "A direct solve of the whole matrix in float64: what it misses is rounding, times the "
        "matrix's condition number"
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        exact = operator.double()
        matrix = exact.dense()
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(NOT_FINITE)
        self._certify = verify(exact, matrix.matmul, operator.dtype)
        self.operator, self.tol = operator, tol
        self.method, self.method_reason = "cholesky", reason
        # Entries that were rounded to float32 hide what lies below; damping is known exactly.
        rounded = rounded_entries(operator) and total_damping(operator)[0] == 0
        self._factor = SpectralFactor(matrix, 6e-8 if rounded else RANK_TOLERANCE)

    def _apply(self, b: Tensor) -> Applied:
        return Applied(self._factor.solve(b), 0, self._factor.status, self._factor.min_ritz)

    def _product(self, x: Tensor) -> Tensor:
        return self._certify(x)

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return self._factor.quadratic_form(b)

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        return self._factor.logdet()

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        return self._factor.trace()
